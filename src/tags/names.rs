//! The tags of a stored response, by their names.

/// The tags of a response by their names, in one piece of memory: each behind its length.
#[derive(Debug, Clone, Default)]
pub(crate) struct TagNames(Box<[u8]>);

/// What a name's length takes.
const NAME_LENGTH: usize = size_of::<u32>();

impl TagNames {
    pub(crate) fn new(names: &[Box<[u8]>]) -> Self {
        let each = names.iter().map(|name| name.len() + NAME_LENGTH);
        let mut bytes = Vec::with_capacity(each.sum());
        for name in names {
            let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(name);
        }
        Self(bytes.into())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<NAME_LENGTH>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (name, after) = after.split_at_checked(length)?;
            rest = after;
            Some(name)
        })
    }

    pub(crate) fn weight(&self) -> usize {
        self.0.len()
    }
}
