//! A piece of a recorded body, with the memory that it really holds.

use bytes::Bytes;

/// Data, and the size of the buffer in which they lie.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunk {
    pub(super) data: Bytes,
    pub(super) held: usize,
}

impl Chunk {
    /// Copies the data if their buffer is more than twice as long, or if that cannot be known because others share the buffer: a frame
    /// of a few bytes may keep a read buffer of a megabyte alive.
    pub(super) fn compact(data: Bytes) -> Self {
        // Of a buffer that nobody else has, no data are copied here.
        Self::of(Vec::from(data))
    }

    /// As [`compact`](Self::compact), of a buffer that is known.
    pub(super) fn of(mut buffer: Vec<u8>) -> Self {
        if buffer.capacity() / 2 > buffer.len() {
            buffer.shrink_to_fit();
        }
        let held = buffer.capacity();
        let data = Bytes::from(buffer);
        Self { data, held }
    }

    /// What is in memory already, and counted there.
    pub(super) fn counted_elsewhere(data: Bytes) -> Self {
        Self { data, held: 0 }
    }

    /// Whether the buffer is hardly longer than the data, so that it can be stored as it is.
    pub(super) fn is_tight(&self) -> bool {
        self.held <= self.data.len() + self.data.len() / 16
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn with_capacity(length: usize, capacity: usize) -> Bytes {
        let mut buffer = Vec::with_capacity(capacity);
        buffer.resize(length, b'x');
        buffer.into()
    }

    // Invariant 66.
    #[test]
    fn data_that_pin_more_than_twice_their_length_are_copied() {
        for (length, capacity, held) in [
            (1000, 1000, 1000),
            (1000, 2000, 2000),
            (1000, 2001, 2001),
            (1000, 2002, 1000),
            (1, 1 << 20, 1),
        ] {
            let data = with_capacity(length, capacity);
            let at = data.as_ptr();
            let chunk = Chunk::compact(data);
            assert_eq!((chunk.data.len(), chunk.held), (length, held), "{capacity}");
            let is_kept = chunk.data.as_ptr() == at;
            assert!(is_kept || held < capacity, "{length} of {capacity}");
        }
    }

    // Invariant 66.
    #[test]
    fn data_whose_buffer_is_shared_or_unknown_are_copied() {
        let whole = with_capacity(1 << 20, 1 << 20);
        let mut read_buffer = BytesMut::from(&whole[..]);
        let frame = read_buffer.split_to(100).freeze();
        for data in [
            whole.slice(7..107),
            frame,
            Bytes::from_static(&[b'x'; 100]),
            Bytes::from_owner(vec![b'x'; 100]),
        ] {
            let chunk = Chunk::compact(data.clone());
            assert_ne!(chunk.data.as_ptr(), data.as_ptr());
            assert_eq!((chunk.data.len(), chunk.held), (100, 100));
        }
    }

    // Invariant 66.
    #[test]
    fn a_part_that_is_all_that_is_left_of_a_buffer_is_known_to_pin_it() {
        let mut part = with_capacity(1000, 1000);
        drop(part.split_to(990));
        let chunk = Chunk::compact(part);
        assert_eq!((chunk.data.len(), chunk.held), (10, 10));
    }
}
