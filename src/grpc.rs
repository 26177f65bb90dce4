//! As much of gRPC as a cache needs: where messages end, and whether a call went well.

use std::time::Duration;

use http::{HeaderMap, header};

/// After a whole message, the end of a unary call's body follows at once; a stream's does not, and must not be waited for. The first byte
/// of a unary request follows its head as soon.
pub(crate) const END_FOLLOWS: Duration = Duration::from_millis(50);

/// For so long the first byte of a response is waited for, since a stream may have none for hours.
const FIRST_BYTE_FOLLOWS: Duration = Duration::from_secs(1);

/// Where a response says how the call ended: in its trailers, or in its head if it has no message.
pub(crate) const STATUS: &str = "grpc-status";

/// How a call ended whose response has messages of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// One whole message, and the status OK behind it.
    Succeeded,
    /// The service failed: see [`is_failure`].
    Failed,
    /// With a status that speaks of the request, such as `NOT_FOUND`.
    Refused(u32),
    /// Without a status, or without the one whole message.
    Broken,
}

/// The status of a call, if it is one.
pub(crate) fn code(fields: &HeaderMap) -> Option<u32> {
    let mut lines = fields.get_all(STATUS).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    // Written as gRPC writes it, without a sign or zeros in front.
    let is_number = match line.as_bytes() {
        [b'0', _, ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    };
    line.to_str().ok().filter(|_| is_number)?.parse().ok()
}

/// Whether a status speaks of the service and not of the request, as a 5xx does: UNKNOWN, `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`,
/// INTERNAL, UNAVAILABLE, `DATA_LOSS`.
pub(crate) const fn is_failure(code: u32) -> bool {
    matches!(code, 2 | 4 | 8 | 13 | 14 | 15)
}

/// What stands before a message: a flag for compression, and the length in four bytes.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Whether a message is one of gRPC, by its type.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    content_type_starts_with(headers, b"application/grpc")
}

pub(crate) fn content_type_starts_with(headers: &HeaderMap, start: &[u8]) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().trim_ascii_start().get(..start.len()))
        .is_some_and(|found| found.eq_ignore_ascii_case(start))
}

/// The flag and the bytes of a body's one message. `None` if it is anything else than one.
pub(crate) fn one_message(body: &[u8]) -> Option<(u8, &[u8])> {
    let mut messages = Messages::default();
    let one = messages.push(body) && messages.one_is_whole();
    one.then(|| (body[0], &body[PREFIX_BYTES..]))
}

/// Counts the messages of a body as it comes in.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    prefix: Vec<u8>,
    missing: usize,
    begun: usize,
}

impl Messages {
    /// Takes the next bytes. `false` as soon as a second message begins: this is a stream.
    pub(crate) fn push(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            if self.missing > 0 {
                let taken = self.missing.min(data.len());
                self.missing -= taken;
                data = &data[taken..];
                continue;
            }
            if self.prefix.len() == PREFIX_BYTES {
                self.prefix.clear();
            }
            if self.prefix.is_empty() {
                self.begun += 1;
                if self.begun > 1 {
                    return false;
                }
            }
            let taken = (PREFIX_BYTES - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data[..taken]);
            data = &data[taken..];
            if let [_, length @ ..] = self.prefix.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.missing = u32::from_be_bytes(length) as usize;
            }
        }
        true
    }

    /// Whether nothing has come in.
    pub(crate) fn none_has_begun(&self) -> bool {
        self.begun == 0
    }

    /// How long a response that has come so far is taken for that of a unary call, if nothing more comes.
    pub(crate) fn patience(&self) -> Option<Duration> {
        if self.none_has_begun() {
            Some(FIRST_BYTE_FOLLOWS)
        } else {
            self.one_is_whole().then_some(END_FOLLOWS)
        }
    }

    /// Whether exactly one message has come in, and is whole.
    pub(crate) fn one_is_whole(&self) -> bool {
        self.begun == 1 && self.prefix.len() == PREFIX_BYTES && self.missing == 0
    }

    /// How the call ended, by its trailers.
    pub(crate) fn ending(&self, trailers: Option<&HeaderMap>) -> Ending {
        match trailers.and_then(code) {
            Some(0) if self.one_is_whole() => Ending::Succeeded,
            Some(code) if is_failure(code) => Ending::Failed,
            Some(code) if code > 0 => Ending::Refused(code),
            _ => Ending::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(data: &[u8], step: usize) -> (Messages, bool) {
        let mut messages = Messages::default();
        let single = data.chunks(step).all(|chunk| messages.push(chunk));
        (messages, single)
    }

    #[test]
    fn one_message_is_whole_when_its_last_byte_is_there() {
        let message = [0, 0, 0, 0, 3, b'a', b'b', b'c'];
        for step in 1..=message.len() {
            let (messages, single) = pushed(&message, step);
            assert!(single && messages.one_is_whole());
            let (messages, single) = pushed(&message[..7], step);
            assert!(single && !messages.one_is_whole());
            let (messages, single) = pushed(&message[..4], step);
            assert!(single && !messages.one_is_whole());
        }
        assert!(
            pushed(&[0, 0, 0, 0, 0], 5).0.one_is_whole(),
            "an empty message is one"
        );
        assert!(!Messages::default().one_is_whole());
    }

    #[test]
    fn a_second_message_is_noticed_with_its_first_byte() {
        for step in 1..8 {
            let (_, single) = pushed(&[0, 0, 0, 0, 1, b'a', 0], step);
            assert!(!single);
            let (_, single) = pushed(&[0, 0, 0, 0, 0, 0], step);
            assert!(!single);
        }
    }

    #[test]
    fn a_length_of_any_size_is_only_counted() {
        let (messages, single) = pushed(&[1, 255, 255, 255, 255, 1, 2, 3], 3);
        assert!(single && !messages.one_is_whole());
    }

    #[test]
    fn the_status_in_the_trailers_says_how_a_call_ended() {
        let (one, _) = pushed(&[0, 0, 0, 0, 0], 5);
        let none = Messages::default();
        assert_eq!(one.ending(None), Ending::Broken);
        assert_eq!(one.ending(Some(&HeaderMap::new())), Ending::Broken);
        for (line, with_one, with_none) in [
            ("0", Ending::Succeeded, Ending::Broken),
            ("00", Ending::Broken, Ending::Broken),
            ("05", Ending::Broken, Ending::Broken),
            ("5", Ending::Refused(5), Ending::Refused(5)),
            ("99", Ending::Refused(99), Ending::Refused(99)),
            ("", Ending::Broken, Ending::Broken),
            ("+5", Ending::Broken, Ending::Broken),
            ("x", Ending::Broken, Ending::Broken),
            ("99999999999", Ending::Broken, Ending::Broken),
        ] {
            let mut trailers = HeaderMap::new();
            trailers.insert(STATUS, http::HeaderValue::from_static(line));
            assert_eq!(one.ending(Some(&trailers)), with_one, "{line:?}");
            assert_eq!(none.ending(Some(&trailers)), with_none, "{line:?}");
        }
        for code in 0..=16_u32 {
            let mut trailers = HeaderMap::new();
            trailers.insert(STATUS, http::HeaderValue::from(code));
            let failed = none.ending(Some(&trailers)) == Ending::Failed;
            assert_eq!(failed, [2, 4, 8, 13, 14, 15].contains(&code), "{code}");
            trailers.append(STATUS, http::HeaderValue::from(code));
            assert_eq!(none.ending(Some(&trailers)), Ending::Broken, "said twice");
        }
    }
}
