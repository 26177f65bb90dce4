//! Values of the user's own types in a key.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::encode::{KeyBytes, Tag, put};

/// A value of a type of your own that can stand in a [`Key`](crate::Key): a tenant, a segment of users, a plan.
///
/// Two values that are not equal must write different things. Everything that is written is kept apart from what is
/// written before and after, so `"ab", "c"` and `"a", "bc"` are not the same.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Key, key::{KeyValue, KeyWriter}};
///
/// #[derive(Clone)]
/// struct Tenant { organisation: u64, name: String }
///
/// impl KeyValue for Tenant {
///     fn write(&self, key: &mut KeyWriter<'_>) {
///         self.organisation.write(key);
///         self.name.write(key);
///     }
/// }
///
/// let key = Key::new().extension::<Tenant>();
/// # let _ = key;
/// ```
pub trait KeyValue {
    /// Writes what tells this value from all others of its type. It runs on every request, also on hits.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::key::{KeyValue, KeyWriter};
    ///
    /// enum Plan { Free, Paid { seats: u32 } }
    ///
    /// impl KeyValue for Plan {
    ///     fn write(&self, key: &mut KeyWriter<'_>) {
    ///         match self {
    ///             Self::Free => key.bytes(b"free"),
    ///             Self::Paid { seats } => {
    ///                 key.bytes(b"paid");
    ///                 seats.write(key);
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    fn write(&self, key: &mut KeyWriter<'_>);
}

/// Where a [`KeyValue`] is written to.
///
/// # Examples
///
/// ```
/// use tower_response_cache::key::{KeyValue, KeyWriter};
///
/// struct Region([u8; 2]);
///
/// impl KeyValue for Region {
///     fn write(&self, key: &mut KeyWriter<'_>) {
///         key.bytes(&self.0);
///     }
/// }
/// ```
#[derive(Debug)]
pub struct KeyWriter<'a>(&'a mut KeyBytes);

impl<'a> KeyWriter<'a> {
    pub(super) fn new(key: &'a mut KeyBytes) -> Self {
        Self(key)
    }

    /// Says that there is no value.
    pub(super) fn absent(&mut self) {
        put(self.0, Tag::Absent, b"");
    }

    /// Adds these bytes, as one value.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::key::KeyWriter;
    /// fn write(flags: u8, key: &mut KeyWriter<'_>) {
    ///     key.bytes(&[flags]);
    /// }
    /// ```
    pub fn bytes(&mut self, bytes: &[u8]) {
        put(self.0, Tag::Value, bytes);
    }
}

macro_rules! strings {
    ($($type:ty),*) => {
        $(impl KeyValue for $type {
            fn write(&self, key: &mut KeyWriter<'_>) {
                let bytes: &[u8] = AsRef::<[u8]>::as_ref(&**self);
                key.bytes(bytes);
            }
        })*
    };
}

strings!(
    &str,
    String,
    Box<str>,
    Arc<str>,
    Cow<'_, str>,
    Vec<u8>,
    Box<[u8]>,
    &[u8],
    Bytes
);

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl KeyValue for $type {
            fn write(&self, key: &mut KeyWriter<'_>) {
                key.bytes(&self.to_le_bytes());
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

impl KeyValue for bool {
    fn write(&self, key: &mut KeyWriter<'_>) {
        key.bytes(&[u8::from(*self)]);
    }
}

/// That there is none is a value too.
impl<T: KeyValue> KeyValue for Option<T> {
    fn write(&self, key: &mut KeyWriter<'_>) {
        self.is_some().write(key);
        if let Some(value) = self {
            value.write(key);
        }
    }
}
