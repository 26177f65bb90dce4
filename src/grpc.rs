//! As much of gRPC as a cache needs: where messages end, and whether a call went well.

use http::{HeaderMap, header};

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

    /// Whether exactly one message has come in, and is whole.
    pub(crate) fn one_is_whole(&self) -> bool {
        self.begun == 1 && self.prefix.len() == PREFIX_BYTES && self.missing == 0
    }

    /// Whether the call ended well: one whole message, and the status OK behind it.
    pub(crate) fn succeeded(&self, trailers: Option<&HeaderMap>) -> bool {
        let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
        self.one_is_whole() && status.is_some_and(|status| status == "0")
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
    fn a_call_went_well_only_with_its_status_in_the_trailers() {
        let (messages, _) = pushed(&[0, 0, 0, 0, 0], 5);
        let mut trailers = HeaderMap::new();
        assert!(!messages.succeeded(None));
        assert!(!messages.succeeded(Some(&trailers)));
        trailers.insert("grpc-status", http::HeaderValue::from_static("5"));
        assert!(!messages.succeeded(Some(&trailers)));
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        assert!(messages.succeeded(Some(&trailers)));
        assert!(!Messages::default().succeeded(Some(&trailers)));
    }
}
