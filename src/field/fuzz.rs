//! Whatever a field says, it is read without a panic, and what may forbid is not overlooked: tried with lines that are
//! made of bytes, against a model that takes lists apart in another way.
//!
//! The tests give it random bytes, and so does the fuzzer (`cargo +nightly fuzz run field -- -max_len=192`).

mod model;

use std::{
    fmt::Debug,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use self::model::{has, has_bare, in_lines, is_as_strict, number_of, pairs, shortest};
use super::{
    NoVarySearch, Qualified, RequestControl, ResponseControl, age, delta_seconds,
    directive::Malformed, format_date, groups, parse_date, single_date,
};

/// Makes lines of these bytes, reads them as each field, and compares what is found with the model.
///
/// # Panics
///
/// If they are not the same.
pub(crate) fn check(bytes: &[u8]) {
    if let Err(broken) = examine(bytes, &Readers::default()) {
        panic!("{broken}");
    }
}

/// What is tried. Less, to show that a fault would be seen.
struct Readers {
    response: fn(&HeaderMap) -> Result<ResponseControl, Malformed>,
    request: fn(&HeaderMap) -> RequestControl,
    targeted: fn(&HeaderMap, &HeaderName) -> Option<ResponseControl>,
    date: fn(&[u8], SystemTime) -> Option<i64>,
    canonical: fn(&NoVarySearch, Option<&str>) -> Vec<u8>,
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            response: ResponseControl::of,
            request: RequestControl::of,
            targeted: ResponseControl::targeted,
            date: parse_date,
            canonical: NoVarySearch::canonical,
        }
    }
}

fn examine(bytes: &[u8], readers: &Readers) -> Result<(), String> {
    let lines = lines(bytes);
    let broken = |what: String| {
        let lines = lines.iter().map(|line| line.escape_ascii().to_string());
        format!("{what}\n{:#?}", lines.collect::<Vec<_>>())
    };
    response(&lines, readers).map_err(broken)?;
    request(&lines, readers).map_err(broken)?;
    targeted(&lines, readers).map_err(broken)?;
    dates(&lines, readers).map_err(broken)?;
    numbers(&lines).map_err(broken)?;
    named_groups(&lines).map_err(broken)?;
    queries(&lines, readers).map_err(broken)
}

fn response(lines: &[Vec<u8>], readers: &Readers) -> Result<(), String> {
    let name = header::CACHE_CONTROL;
    let Ok(read) = (readers.response)(&in_lines(&name, lines)) else {
        return Ok(());
    };
    let private = read.private == Some(Qualified::All);
    let no_cache = read.no_cache == Some(Qualified::All);
    equal("no-store", read.no_store, has(lines, "no-store"))?;
    equal("public", read.public, has_bare(lines, "public"))?;
    implied("private", has_bare(lines, "private"), private)?;
    implied("no-cache", has_bare(lines, "no-cache"), no_cache)?;
    equal("private", read.private.is_some(), has(lines, "private"))?;
    equal("no-cache", read.no_cache.is_some(), has(lines, "no-cache"))?;
    equal("max-age", read.max_age, shortest(lines, "max-age"))?;
    equal("s-maxage", read.s_maxage, shortest(lines, "s-maxage"))?;
    // One line is as good as many.
    let joined = (readers.response)(&in_lines(&name, &[lines.join(&b","[..])]));
    equal("joined", joined.as_ref(), Ok(&read))?;
    // More lines do not permit more.
    for fewer in 0..lines.len() {
        let fewer = (readers.response)(&in_lines(&name, &lines[..fewer]));
        let fewer = fewer.map_err(|Malformed| "a part cannot be read, and the whole can")?;
        implied("stricter with more", true, is_as_strict(&read, &fewer))?;
    }
    Ok(())
}

fn request(lines: &[Vec<u8>], readers: &Readers) -> Result<(), String> {
    let headers = in_lines(&header::CACHE_CONTROL, lines);
    let read = (readers.request)(&headers);
    let is_whole = ResponseControl::of(&headers).is_ok();
    let permits = read.max_stale.is_some() || read.stale_if_error.is_some();
    implied("permits where unreadable", !is_whole, !permits)?;
    if is_whole {
        equal("no-cache", read.no_cache, has(lines, "no-cache"))?;
        equal("no-store", read.no_store, has(lines, "no-store"))?;
        equal("max-age", read.max_age, shortest(lines, "max-age"))?;
        let joined = in_lines(&header::CACHE_CONTROL, &[lines.join(&b","[..])]);
        equal("joined", (readers.request)(&joined), read)?;
    }
    let pragma = (readers.request)(&in_lines(&header::PRAGMA, lines));
    let only = RequestControl {
        no_cache: pragma.no_cache,
        ..RequestControl::default()
    };
    equal("pragma", pragma, only)
}

/// Each line by itself: of several, the last counts.
fn targeted(lines: &[Vec<u8>], readers: &Readers) -> Result<(), String> {
    let name = HeaderName::from_static("cdn-cache-control");
    let all = (readers.targeted)(&in_lines(&name, lines), &name);
    let all_read = all.is_none_or(|all| all.max_age.is_none_or(|seconds| seconds <= 1 << 31));
    implied("bounded", true, all_read)?;
    for line in lines {
        let line = std::slice::from_ref(line);
        let Some(read) = (readers.targeted)(&in_lines(&name, line), &name) else {
            continue;
        };
        let once = |name: &str| has_bare(line, name) && number_of(line, name) == 1;
        implied("no-store", once("no-store"), read.no_store)?;
        implied("private", once("private"), read.private.is_some())?;
        implied("no-cache", once("no-cache"), read.no_cache.is_some())?;
        implied("public", read.public, has(line, "public"))?;
        let lifetime = read.max_age.is_some();
        implied("max-age", lifetime, has(line, "max-age"))?;
    }
    Ok(())
}

fn dates(lines: &[Vec<u8>], readers: &Readers) -> Result<(), String> {
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
    let read = |text: &[u8], now| (readers.date)(text, at(now));
    let mut now = 0;
    for line in lines {
        let number = line.iter().fold(now, |number: u64, b| {
            number.wrapping_mul(31).wrapping_add(u64::from(*b))
        });
        now = number % 253_402_300_800;
        let written = format_date(at(now));
        let back = read(written.as_bytes(), 0).and_then(|date| u64::try_from(date).ok());
        equal("date", back, Some(now))?;
        let date = read(line, now);
        equal("case", read(&line.to_ascii_lowercase(), now), date)?;
        let strict = std::str::from_utf8(line).ok();
        let strict = strict.and_then(|line| httpdate::parse_http_date(line).ok());
        let strict = strict.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        if let Some(strict) = strict {
            let seconds = i64::try_from(strict.as_secs()).ok();
            // Years of two digits are near to now, and there to 1970.
            let is_near = line.contains(&b'-');
            implied("date", true, date == seconds || is_near)?;
        }
    }
    let headers = in_lines(&header::EXPIRES, lines);
    let single = single_date(&headers, &header::EXPIRES, UNIX_EPOCH);
    implied("one date", single.is_some(), lines.len() == 1)
}

fn numbers(lines: &[Vec<u8>]) -> Result<(), String> {
    implied("age", true, age(&in_lines(&header::AGE, lines)) <= 1 << 31)?;
    for line in lines {
        let is_number = !line.is_empty() && line.iter().all(u8::is_ascii_digit);
        let text = String::from_utf8_lossy(line);
        let number = is_number.then(|| text.parse().unwrap_or(u64::MAX).min(1 << 31));
        equal("seconds", delta_seconds(line), number)?;
    }
    Ok(())
}

fn named_groups(lines: &[Vec<u8>]) -> Result<(), String> {
    let name = HeaderName::from_static("cache-groups");
    let Some(read) = groups(&in_lines(&name, lines), &name) else {
        return Ok(());
    };
    let quoted = |group: &String| {
        let group = group.replace('\\', r"\\").replace('"', "\\\"");
        format!("\"{group}\";a=1").into_bytes()
    };
    let again: Vec<_> = read.iter().map(quoted).collect();
    let again = groups(&in_lines(&name, &again), &name);
    // What is empty is a line without members, and not no line.
    equal("groups", again.unwrap_or_default(), read)
}

/// The first line is the field, the second a query.
fn queries(lines: &[Vec<u8>], readers: &Readers) -> Result<(), String> {
    let [line, query, ..] = lines else {
        return Ok(());
    };
    let name = HeaderName::from_static("no-vary-search");
    let headers = in_lines(&name, std::slice::from_ref(line));
    let query = String::from_utf8_lossy(query);
    let Some(read) = NoVarySearch::of(&headers) else {
        return Ok(());
    };
    let canonical = |query: &str| (readers.canonical)(&read, Some(query));
    let whole = canonical(&query);
    let all: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let spelled = all
        .iter()
        .map(|(name, value)| format!("{}={}&&", escaped(name), escaped(value)));
    let escaped: String = spelled.collect();
    equal("escaped", &canonical(&escaped), &whole)?;
    let kept = pairs(&whole).ok_or("parts without lengths")?;
    // A name is kept with all its values in their order, or dropped.
    for (name, _) in &kept {
        let after = kept.iter().filter(|(known, _)| known == name);
        let before = all.iter().filter(|(known, _)| known == name);
        let same = after
            .map(|(_, value)| &**value)
            .eq(before.map(|(_, value)| &**value));
        implied("all values", true, same)?;
    }
    let mut rest = all.iter();
    let is_in_order = kept
        .iter()
        .all(|(name, value)| rest.any(|pair| pair.0 == **name && pair.1 == **value));
    let is_sorted = kept.is_sorted_by(|one, other| one.0 <= other.0);
    implied("order", true, is_in_order || is_sorted)
}

fn escaped(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02x}")).collect()
}

fn equal<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found != expected {
        return Err(format!("{what}: {found:?}, and not {expected:?}"));
    }
    Ok(())
}

fn implied(what: &str, reason: bool, conclusion: bool) -> Result<(), String> {
    if reason && !conclusion {
        return Err(format!("not {what}"));
    }
    Ok(())
}

/// What random letters would hardly make.
const WORDS: [&str; 96] = [
    // 16 that separate.
    ",",
    ", ",
    ",",
    ", ",
    ",\t,",
    " ,",
    ",",
    ", ",
    "\n",
    "\n",
    "\n",
    "\n,",
    ";",
    " ",
    "\"",
    "\\",
    // 32 names.
    "no-store",
    "No-Store",
    "NO-STORE",
    "no-store",
    "private",
    "PRIVATE",
    "no-cache",
    "No-Cache",
    "public",
    "Public",
    "max-age",
    "Max-Age",
    "max-age",
    "s-maxage",
    "S-MaxAge",
    "max-stale",
    "Max-Stale",
    "min-fresh",
    "must-revalidate",
    "proxy-revalidate",
    "must-understand",
    "stale-if-error",
    "Stale-If-Error",
    "stale-while-revalidate",
    "only-if-cached",
    "immutable",
    "x",
    "no-storex",
    "x-private",
    "key-order",
    "a",
    "\"a\"",
    // 32 that follow a name.
    "=60",
    "=60",
    "=0",
    "=\"60\"",
    "=\"6\\0\"",
    "=3600",
    "=007",
    "=99999999999999999999",
    "=-1",
    "=1.5",
    "='60'",
    "=",
    "=\"\"",
    "=?0",
    "=?1",
    "=x",
    "=\"x\"",
    "=set-cookie",
    "=\"a\"",
    "=\"a, B\"",
    "=\"a\\\", no-store, \"",
    "=\"no-store, max-age=1\"",
    "=\"*\"",
    "=\"a",
    "=(\"a\")",
    "=(\"a\" \"%62+\")",
    "=()",
    ";a=1",
    ";a",
    "=60;a",
    " =60",
    "= 60",
    // 16 of dates and queries.
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
    "Sun, ",
    " Nov ",
    "-Nov-",
    "08:49:60",
    " GMT",
    "params",
    "except",
    "&",
    "a=1",
    "&a=2&b=1",
    "%61",
    "%f6",
    "+",
];

/// Lines as they may be in a header: a byte is itself, or a word.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    for &b in bytes {
        match WORDS.get(usize::from(b).wrapping_sub(0x80)) {
            Some(word) => text.extend_from_slice(word.as_bytes()),
            None if HeaderValue::from_bytes(&[b]).is_ok() || b == b'\n' => text.push(b),
            None => {}
        }
    }
    text.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scale::scaled;

    fn inputs() -> u64 {
        scaled(4_000) as u64
    }

    /// The same in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u8) -> u8 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let [byte, ..] = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes();
            byte % end
        }

        /// A byte that stands for one of these words.
        fn word(&mut self, words: &[&str]) -> u8 {
            let number = u8::try_from(words.len()).expect("few words");
            let chosen = words[usize::from(self.below(number))];
            let at = WORDS.iter().position(|word| *word == chosen);
            0x80 + u8::try_from(at.expect("a word")).expect("few words")
        }
    }

    /// Mostly what one of the fields may hold.
    fn bytes(input: u64) -> Vec<u8> {
        let [separators, names, arguments] = [0..12, 16..48, 48..80].map(|range| &WORDS[range]);
        let (dates, pieces) = (&WORDS[80..83], &WORDS[90..]);
        let mut random = Random((input + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut bytes = Vec::new();
        let field = random.below(8);
        if field == 0 {
            bytes.push(random.word(&["params", "except"]));
            bytes.push(random.word(&["=(\"a\")", "=(\"a\" \"%62+\")", "=()"]));
            if random.below(2) == 0 {
                bytes.extend([",", "key-order"].map(|word| random.word(&[word])));
            }
            bytes.push(b'\n');
        }
        for _ in 0..=random.below(8) {
            let kinds: &[&[&str]] = match field {
                0 => &[pieces],
                1 => &[&["\"a\""], &[","]],
                2 => &[dates, &["\n"]],
                3 => &[names, arguments, &WORDS],
                _ if random.below(2) == 0 => &[names, arguments, separators],
                _ => &[names, separators],
            };
            bytes.extend(kinds.iter().map(|words| random.word(words)));
            if random.below(32) == 0 {
                bytes.push(random.below(u8::MAX));
            }
        }
        if field == 1 {
            bytes.pop();
        }
        bytes
    }

    fn tried(readers: &Readers) -> Result<(), String> {
        (0..inputs()).try_for_each(|input| examine(&bytes(input), readers))
    }

    // Invariants 3, 10, 19.
    #[test]
    fn whatever_a_field_says_it_is_read_and_nothing_that_forbids_is_overlooked() {
        for input in 0..inputs() {
            check(&bytes(input));
        }
        for one in 0..=u8::MAX {
            check(&[one]);
        }
    }

    /// By commas, and as far as it can be read.
    fn naive(headers: &HeaderMap) -> Result<ResponseControl, Malformed> {
        let lines = headers.get_all(header::CACHE_CONTROL).iter();
        let mut members = lines.flat_map(|line| line.as_bytes().split(|&b| b == b','));
        Ok(ResponseControl {
            no_store: members.any(|member| member.trim_ascii() == b"no-store"),
            ..ResponseControl::default()
        })
    }

    fn first_line(headers: &HeaderMap) -> HeaderMap {
        let first = headers.iter().take(1);
        first
            .map(|(name, line)| (name.clone(), line.clone()))
            .collect()
    }

    #[test]
    fn a_fault_would_be_seen() {
        let real = Readers::default;
        let faults = [
            Readers {
                response: naive,
                ..real()
            },
            Readers {
                response: |headers| ResponseControl::of(&first_line(headers)),
                ..real()
            },
            Readers {
                response: |headers| {
                    let read = ResponseControl::of(headers);
                    Ok(read.unwrap_or_default())
                },
                ..real()
            },
            Readers {
                request: |headers| RequestControl::of(&first_line(headers)),
                ..real()
            },
            Readers {
                targeted: |headers, name| {
                    let read = ResponseControl::targeted(headers, name);
                    read.map(|read| ResponseControl {
                        no_store: false,
                        ..read
                    })
                },
                ..real()
            },
            Readers {
                date: |text, _| {
                    let read = httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()?;
                    let since = read.duration_since(UNIX_EPOCH).ok()?;
                    i64::try_from(since.as_secs()).ok()
                },
                ..real()
            },
            Readers {
                canonical: |_, query| query.unwrap_or_default().into(),
                ..real()
            },
            Readers {
                canonical: |read, query| {
                    let pairs = pairs(&read.canonical(query)).unwrap_or_default();
                    let text = pairs.into_iter().map(|(name, value)| name + &value);
                    text.collect::<String>().into_bytes()
                },
                ..real()
            },
        ];
        for (fault, readers) in faults.iter().enumerate() {
            assert!(tried(readers).is_err(), "fault {fault}");
        }
    }
}
