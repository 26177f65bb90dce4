//! What lines say, found in another way: cut at commas outside of quotes first, and understood after.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::{Qualified, ResponseControl};

pub(super) fn in_lines(name: &HeaderName, lines: &[Vec<u8>]) -> HeaderMap {
    let values = lines.iter().map(|line| HeaderValue::from_bytes(line));
    let mut headers = HeaderMap::new();
    for value in values.map_while(Result::ok) {
        headers.append(name, value);
    }
    headers
}

/// Each member, with its name in lower case, as far as it may go, and what stands behind the first `=`.
fn members(lines: &[Vec<u8>]) -> impl Iterator<Item = (String, Option<Vec<u8>>)> {
    lines.iter().flat_map(|line| cut(line)).map(|member| {
        let member = member.trim_ascii();
        let at = member.iter().position(|&b| b == b'=');
        let end = member.iter().position(|&b| b"=;".contains(&b));
        let name = &member[..end.unwrap_or(member.len())];
        let argument = at.map(|at| member[at + 1..].to_vec());
        (String::from_utf8_lossy(name).to_lowercase(), argument)
    })
}

fn cut(line: &[u8]) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let is_comma = |b: &u8| {
        let comma = *b == b',' && !quoted;
        quoted ^= *b == b'"' && !escaped;
        escaped = quoted && *b == b'\\' && !escaped;
        comma
    };
    line.split(is_comma).collect()
}

pub(super) fn number_of(lines: &[Vec<u8>], name: &str) -> usize {
    members(lines).filter(|(known, _)| known == name).count()
}

pub(super) fn has(lines: &[Vec<u8>], name: &str) -> bool {
    number_of(lines, name) > 0
}

/// Whether it is there without an argument.
pub(super) fn has_bare(lines: &[Vec<u8>], name: &str) -> bool {
    members(lines).any(|(known, argument)| known == name && argument.is_none())
}

/// The shortest of the numbers behind a name; what is no number is none.
pub(super) fn shortest(lines: &[Vec<u8>], name: &str) -> Option<u64> {
    let arguments = members(lines).filter(|(known, _)| known == name);
    let seconds = arguments.map(|(_, argument)| {
        let argument = unquoted(argument.unwrap_or_default());
        let is_number = !argument.is_empty() && argument.bytes().all(|b| b.is_ascii_digit());
        let largest = 1 << 31;
        let number = argument.parse().unwrap_or(largest).min(largest);
        if is_number { number } else { 0 }
    });
    seconds.min()
}

fn unquoted(argument: Vec<u8>) -> String {
    let text = String::from_utf8_lossy(&argument);
    let Some(inside) = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    else {
        return text.into_owned();
    };
    let mut characters = inside.chars();
    let mut plain = String::new();
    while let Some(c) = characters.next() {
        plain.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    plain
}

/// Whether what was found in more lines permits nothing that is forbidden by fewer, or for longer.
pub(super) fn is_as_strict(more: &ResponseControl, fewer: &ResponseControl) -> bool {
    let still = |fewer: bool, more: bool| more || !fewer;
    let as_short = |fewer: Option<u64>, more: Option<u64>| {
        fewer.is_none_or(|fewer| more.is_some_and(|more| more <= fewer))
    };
    let no_longer = |fewer: Option<u64>, more: Option<u64>| {
        fewer.is_none_or(|fewer| more.is_none_or(|more| more <= fewer))
    };
    still(fewer.no_store, more.no_store)
        && still(fewer.must_revalidate, more.must_revalidate)
        && still(fewer.proxy_revalidate, more.proxy_revalidate)
        && covers(&more.private, &fewer.private)
        && covers(&more.no_cache, &fewer.no_cache)
        && as_short(fewer.max_age, more.max_age)
        && as_short(fewer.s_maxage, more.s_maxage)
        && no_longer(fewer.stale_while_revalidate, more.stale_while_revalidate)
        && no_longer(fewer.stale_if_error, more.stale_if_error)
}

fn covers(more: &Option<Qualified>, fewer: &Option<Qualified>) -> bool {
    match (more, fewer) {
        (Some(Qualified::All), _) | (_, None) => true,
        (Some(Qualified::Fields(more)), Some(Qualified::Fields(fewer))) => {
            fewer.iter().all(|name| more.contains(name))
        }
        _ => false,
    }
}

/// The pairs that a canonical query is made of. `None` if it is not made so.
pub(super) fn pairs(canonical: &[u8]) -> Option<Vec<(String, String)>> {
    let mut rest = canonical;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        pairs.push((part(&mut rest)?, part(&mut rest)?));
    }
    Some(pairs)
}

fn part(rest: &mut &[u8]) -> Option<String> {
    let (length, after) = rest.split_at_checked(size_of::<u64>())?;
    let length = u64::from_le_bytes(length.try_into().ok()?);
    let (text, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}
