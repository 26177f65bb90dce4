//! Two requests have the same key exactly when all that was chosen of them is equal: tried with specifications and
//! requests that are made of bytes, against a model that knows nothing of how keys are made.
//!
//! The tests give it random bytes, and so does the fuzzer (`cargo +nightly fuzz run key -- -max_len=192 -len_control=0`).

mod model;
mod requests;
mod spec;

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};

use self::{
    model::{Cookies, Refusal, Told, told},
    requests::{Choices, Marker, Names, Plan, Tenant, Whole},
    spec::{Sealed, Spec},
};
use super::{
    Body, Selection,
    encode::{self, KeyBytes, KeyPrefix, Tag},
    seal::HARMLESS,
};

/// Makes a specification and two requests of these bytes, and compares their keys with what was chosen.
///
/// # Panics
///
/// If the keys are equal and what was chosen is not, or the other way round.
pub(crate) fn check(choices: &[u8]) {
    if let Err(broken) = examine(&mut Choices(choices), Reading::Key) {
        panic!("{broken}");
    }
}

/// What is taken for a key: the key, or less, to show that a fault would be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Key,
    #[cfg(test)]
    WithoutLengths,
    #[cfg(test)]
    EmptyIsAbsent,
    #[cfg(test)]
    WithoutSeal,
}

/// What became of two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Equal,
    Different,
    /// At least one of them has no key.
    Refused,
    /// One could not be written as a request.
    Skipped,
}

/// What the model says of a request, and the key that it has.
struct Keyed {
    told: Result<Told, Refusal>,
    key: KeyBytes,
}

fn examine(choices: &mut Choices<'_>, reading: Reading) -> Result<Seen, String> {
    let spec = Spec::any(choices);
    let plan = Plan::any(choices, &spec);
    let other = plan.changed(choices, &spec);
    let (Some(one), Some(other)) = (plan.request(), other.request()) else {
        return Ok(Seen::Skipped);
    };
    let chosen = spec.build();
    let seen = compare(&spec, &chosen, [&one, &other], reading);
    seen.map_err(|what| format!("{what}\n{spec:#?}\n{one:#?}\n{other:#?}"))
}

fn compare(
    spec: &Spec,
    chosen: &(Selection, Option<Body>),
    requests: [&Whole; 2],
    reading: Reading,
) -> Result<Seen, String> {
    let [one, other] = requests.map(|request| keyed(spec, chosen, request));
    let (one, other) = (one?, other?);
    let (Ok(told), Ok(other_told)) = (&one.told, &other.told) else {
        return Ok(Seen::Refused);
    };
    let is_same = told == other_told;
    if (reading.of(&one.key) == reading.of(&other.key)) != is_same {
        let is_bad = if is_same {
            "keys differ"
        } else {
            "keys are equal"
        };
        return Err(format!("{is_bad}: {told:#?}\n{other_told:#?}"));
    }
    if !is_same {
        return Ok(Seen::Different);
    }
    if let Some(seal) = &spec.seal {
        let [one, other] = requests.map(|whole| {
            let mut parts = whole.parts.clone();
            if !reading.forgets_the_seal() {
                chosen.0.show(&mut parts);
            }
            parts
        });
        same_behind(spec, seal, &one, &other)?;
    }
    Ok(Seen::Equal)
}

impl Reading {
    fn of(self, key: &[u8]) -> Cow<'_, [u8]> {
        match self {
            #[cfg(test)]
            Self::WithoutLengths => {
                let items = encode::items(key).unwrap_or_default();
                items.iter().flat_map(|item| item.1).copied().collect()
            }
            #[cfg(test)]
            Self::EmptyIsAbsent => {
                let mut items = encode::items(key).unwrap_or_default();
                items.retain(|item| *item != (Tag::Value, b""));
                put_together(&items).to_vec().into()
            }
            _ => Cow::Borrowed(key),
        }
    }

    fn forgets_the_seal(self) -> bool {
        #[cfg(test)]
        return self == Self::WithoutSeal;
        #[cfg(not(test))]
        false
    }
}

fn keyed(
    spec: &Spec,
    (selection, body): &(Selection, Option<Body>),
    whole: &Whole,
) -> Result<Keyed, String> {
    let mut parts = whole.parts.clone();
    let mut key = KeyBytes::new();
    let encoded = selection.encode(&prefix(), &mut parts, 1 << 20, &mut key);
    if !is_untouched(&whole.parts, &parts) {
        return Err(format!("the request was changed: {parts:#?}"));
    }
    let trailers = whole.trailers.as_ref();
    let encoded: Result<(), Refusal> = match encoded {
        Err(reason) => Err(Some(reason)),
        Ok(_) => match body {
            Some(body) => {
                selection.put_of_the_body(&parts.headers, &mut key);
                let is_keyed = body.put(&parts, &whole.body, trailers, &mut key);
                is_keyed.then_some(()).ok_or(None)
            }
            None => Ok(()),
        },
    };
    let told = told(spec, whole, &shown(spec, selection, &parts));
    if encoded.err() != told.as_ref().err().copied() {
        return Err(format!("refused for {encoded:?}, and expected {told:#?}"));
    }
    if let Ok(told) = &told {
        comes_apart(spec, told, &key)?;
    }
    Ok(Keyed { told, key })
}

fn prefix() -> KeyPrefix {
    KeyPrefix::new("shop", "", None, 1)
}

/// The headers in their normal form, as the inner service sees them, without a seal.
fn shown<'a>(spec: &Spec, selection: &Selection, parts: &'a Parts) -> Cow<'a, HeaderMap> {
    if spec.headers.iter().all(|(_, form)| form.is_none()) {
        return Cow::Borrowed(&parts.headers);
    }
    let mut unsealed = selection.clone();
    unsealed.seal = None;
    let mut parts = parts.clone();
    unsealed.show(&mut parts);
    Cow::Owned(parts.headers)
}

fn is_untouched(before: &Parts, after: &Parts) -> bool {
    #[cfg(feature = "axum")]
    let original = |parts: &Parts| {
        let original = parts.extensions.get::<axum::extract::OriginalUri>();
        original.map(|original| original.0.to_string())
    };
    #[cfg(not(feature = "axum"))]
    let original = |_: &Parts| None::<String>;
    before.method == after.method
        && before.uri.to_string() == after.uri.to_string()
        && before.version == after.version
        && before.headers.iter().eq(after.headers.iter())
        && before.extensions.len() == after.extensions.len()
        && before.extensions.get::<Tenant>() == after.extensions.get::<Tenant>()
        && before.extensions.get::<Names>() == after.extensions.get::<Names>()
        && before.extensions.get::<Marker>() == after.extensions.get::<Marker>()
        && original(before) == original(after)
}

/// A key can be taken apart: the items make the same key again, and have in them what was chosen.
fn comes_apart(spec: &Spec, told: &Told, key: &[u8]) -> Result<(), String> {
    let items = encode::items(key).ok_or("the key is none")?;
    if put_together(&items)[..] != *key {
        return Err(format!("other items than those of the key: {items:?}"));
    }
    let count = |tag: Tag| items.iter().filter(|item| item.0 == tag).count();
    let has = |tag: Tag, value: &[u8]| count(tag) == 1 && items.contains(&(tag, value));
    let values = |tag: Tag, name: &str| {
        let begin = items
            .iter()
            .position(|item| *item == (tag, name.as_bytes()));
        let behind = items.iter().skip(begin.map_or(items.len(), |at| at + 1));
        let values = behind.take_while(|item| item.0 == Tag::Value);
        values.map(|item| item.1.to_vec()).collect::<Vec<_>>()
    };
    let mut headers = told.headers.iter();
    let cookies_are_there = match &told.cookies {
        Cookies::Whole(lines) => values(Tag::RawCookies, "") == *lines,
        Cookies::Parts(found) => {
            count(Tag::Cookie) == found.len()
                && found
                    .iter()
                    .all(|(name, found)| values(Tag::Cookie, name) == *found)
        }
    };
    let is_there = has(Tag::Method, told.method.as_bytes())
        && has(Tag::Path, told.path.as_bytes())
        && count(Tag::Sealed) == usize::from(spec.seal.is_some())
        && count(Tag::Header) == told.headers.len()
        && headers.all(|(name, lines)| values(Tag::Header, name) == *lines)
        && cookies_are_there;
    let told = || format!("{told:#?} is not in {items:?}");
    is_there.then_some(()).ok_or_else(told)
}

fn put_together(items: &[(Tag, &[u8])]) -> KeyBytes {
    let mut key = KeyBytes::new();
    KeyPrefix::new("", "", None, 0).start(&mut key);
    // The version alone.
    key.truncate(1);
    for (tag, value) in items {
        encode::put(&mut key, *tag, value);
    }
    key
}

/// What a seal promises: two requests of one key are the same to the inner service, but for what is let through, and for the
/// form of the target, with the scheme that it tells.
fn same_behind(spec: &Spec, seal: &Sealed, one: &Parts, other: &Parts) -> Result<(), String> {
    let is_kept = |name: &HeaderName| {
        HARMLESS.contains(name) || seal.let_through.is_some_and(|known| name == known)
    };
    // The authority may stand in the URI or in `Host`, as the protocol has it.
    let authority = |parts: &Parts| {
        let of_uri = parts.uri.authority().map(|host| host.as_str().as_bytes());
        let host = || parts.headers.get("host").map(HeaderValue::as_bytes);
        of_uri.or_else(host).map(<[u8]>::to_vec)
    };
    let keys_host = spec.headers.iter().any(|(name, _)| *name == "host");
    let is_let_through = seal.let_through == Some("host");
    if !keys_host && !is_let_through && authority(one) != authority(other) {
        return Err("behind the seal, the authority differs".to_owned());
    }
    let is_kept = |name: &HeaderName| is_kept(name) || (name == "host" && !keys_host);
    for name in one.headers.keys().chain(other.headers.keys()) {
        let (lines, others) = (one.headers.get_all(name), other.headers.get_all(name));
        if !is_kept(name) && lines != others {
            return Err(format!("behind the seal, {name} differs"));
        }
    }
    let target = |parts: &Parts| {
        let uri = &parts.uri;
        let query = uri.query().filter(|_| seal.query);
        (uri.path().to_owned(), query.map(str::to_owned))
    };
    if target(one) != target(other) {
        return Err("behind the seal, the target differs".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::tests::scale::scaled;

    /// No pair needs more.
    const CHOICES: usize = 192;

    /// The bytes of which a pair is made: the same in every run.
    fn choices(pair: u64) -> [u8; CHOICES] {
        let mut state = (pair + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut bytes = [0; CHOICES];
        for chunk in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let random = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
            chunk.copy_from_slice(&random.to_be_bytes());
        }
        bytes
    }

    /// Says which pair it was, where a panic comes from within.
    struct At(u64);

    impl Drop for At {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("at the pair {}", self.0);
            }
        }
    }

    /// How many of these pairs had equal keys, different ones, and none.
    fn tried(pairs: impl Iterator<Item = u64>) -> [u64; 4] {
        let mut counts = [0; 4];
        let mut at = At(0);
        for pair in pairs {
            at.0 = pair;
            match examine(&mut Choices(&choices(pair)), Reading::Key) {
                Ok(seen) => counts[seen as usize] += 1,
                Err(broken) => panic!("pair {pair}: {broken}"),
            }
        }
        counts
    }

    // Invariants 7, 8, 10, 14.
    #[test]
    fn keys_are_equal_exactly_when_all_that_was_chosen_is_equal() {
        let pairs = scaled(20_000) as u64;
        let [even, odd] = thread::scope(|scope| {
            let half = |first| scope.spawn(move || tried((first..pairs).step_by(2)));
            [half(0), half(1)].map(|half| half.join().expect("as many pairs as there are"))
        });
        let count = |seen: Seen| even[seen as usize] + odd[seen as usize];
        let counts = [Seen::Equal, Seen::Different, Seen::Refused, Seen::Skipped].map(count);
        println!("equal, different, refused, skipped: {counts:?}");
        let [equal, different, refused, skipped] = counts;
        assert!(equal >= pairs / 10 && different >= pairs / 10, "{counts:?}");
        assert!(refused < pairs / 2 && skipped < pairs / 10, "{counts:?}");
    }

    /// How many pairs it takes until a fault is seen, and what is said of it.
    fn first_seen(reading: Reading) -> Option<(u64, String)> {
        (0..20_000).find_map(|pair| {
            let seen = examine(&mut Choices(&choices(pair)), reading);
            seen.err().map(|broken| (pair, broken))
        })
    }

    #[test]
    fn it_would_be_seen_if_values_ran_into_each_other() {
        let (pair, broken) = first_seen(Reading::WithoutLengths).unwrap();
        println!("at the pair {pair}");
        assert!(broken.starts_with("keys are equal"), "{broken}");
    }

    #[test]
    fn it_would_be_seen_if_empty_were_absent() {
        let (pair, broken) = first_seen(Reading::EmptyIsAbsent).unwrap();
        println!("at the pair {pair}");
        assert!(broken.starts_with("keys are equal"), "{broken}");
    }

    #[test]
    fn it_would_be_seen_if_a_seal_let_everything_through() {
        let (pair, broken) = first_seen(Reading::WithoutSeal).unwrap();
        println!("at the pair {pair}");
        assert!(broken.starts_with("behind the seal"), "{broken}");
    }

    #[test]
    fn bytes_that_are_too_few_are_a_pair_too() {
        let bytes = choices(7);
        for length in 0..bytes.len() {
            check(&bytes[..length]);
        }
    }
}
