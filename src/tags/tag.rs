//! Tags: names of what a response shows.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    marker::PhantomData,
};

/// The name of something that a response shows, by which the response is purged when that thing changes.
///
/// Case matters, and any text will do; what is longer than
/// [`max_tag_bytes`](crate::CacheLayerBuilder::max_tag_bytes) is not recorded, and the response not stored. Tags with
/// arguments are best made by a [`TagFamily`].
///
/// # Examples
///
/// ```
/// use tower_response_cache::Tag;
///
/// const PRODUCTS: Tag = Tag::new("products");
/// assert_eq!(PRODUCTS.as_str(), "products");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Cow<'static, str>);

impl Tag {
    /// A tag without arguments.
    ///
    /// # Examples
    ///
    /// ```
    /// const HOME: tower_response_cache::Tag = tower_response_cache::Tag::new("home");
    /// # let _ = HOME;
    /// ```
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The tag's text.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(tower_response_cache::Tag::new("home").as_str(), "home");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Tag {
    fn from(name: String) -> Self {
        Self(Cow::Owned(name))
    }
}

impl From<&'static str> for Tag {
    fn from(name: &'static str) -> Self {
        Self::new(name)
    }
}

/// The tags of one kind of thing: one name, one format, one type of argument, written in one place.
///
/// The tag of `PRODUCT.tag(7)` is `product:7`, and so equal to what a handler in any language writes in a
/// `Surrogate-Key: product:7` header.
///
/// # Examples
///
/// ```
/// use tower_response_cache::TagFamily;
///
/// const PRODUCT: TagFamily<u64> = TagFamily::new("product");
/// const CATEGORY: TagFamily<str> = TagFamily::new("category");
///
/// assert_eq!(PRODUCT.tag(7).as_str(), "product:7");
/// assert_eq!(CATEGORY.tag("shoes").as_str(), "category:shoes");
/// ```
///
/// An argument of another type does not compile:
///
/// ```compile_fail
/// # use tower_response_cache::TagFamily;
/// const PRODUCT: TagFamily<u64> = TagFamily::new("product");
/// PRODUCT.tag("seven");
/// ```
pub struct TagFamily<A: ?Sized> {
    name: &'static str,
    argument: PhantomData<fn(&A)>,
}

impl<A: ?Sized + fmt::Display> TagFamily<A> {
    /// A family under this name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::TagFamily;
    /// const AUTHOR: TagFamily<u32> = TagFamily::new("author");
    /// # let _ = AUTHOR;
    /// ```
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            argument: PhantomData,
        }
    }

    /// The tag of one thing of this kind.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::TagFamily;
    /// const AUTHOR: TagFamily<u32> = TagFamily::new("author");
    /// assert_eq!(AUTHOR.tag(3).as_str(), "author:3");
    /// ```
    #[must_use]
    pub fn tag(&self, argument: impl Borrow<A>) -> Tag {
        Tag(Cow::Owned(format!("{}:{}", self.name, argument.borrow())))
    }
}

impl<A: ?Sized> Clone for TagFamily<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: ?Sized> Copy for TagFamily<A> {}

impl<A: ?Sized> fmt::Debug for TagFamily<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TagFamily").field(&self.name).finish()
    }
}

/// The tags of a response: put them into its extensions, or (feature `axum`) return them beside the body.
///
/// # Examples
///
/// ```
/// use http::Response;
/// use tower_response_cache::{Tag, Tags};
///
/// let mut response = Response::new("a page of products");
/// response.extensions_mut().insert(Tags::from([Tag::new("products"), Tag::new("home")]));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Vec<Tag>);

impl Tags {
    /// No tags yet.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(tower_response_cache::Tags::new().is_empty());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one tag.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Tag, Tags};
    /// let tags = Tags::new().with(Tag::new("home")).with(Tag::new("news"));
    /// assert_eq!(tags.len(), 2);
    /// ```
    #[must_use]
    pub fn with(mut self, tag: impl Into<Tag>) -> Self {
        self.0.push(tag.into());
        self
    }

    /// How many there are.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(tower_response_cache::Tags::new().with("home").len(), 1);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(!tower_response_cache::Tags::new().with("home").is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tags, in the order in which they were added.
    ///
    /// # Examples
    ///
    /// ```
    /// let tags = tower_response_cache::Tags::new().with("home");
    /// assert_eq!(tags.iter().next().unwrap().as_str(), "home");
    /// ```
    pub fn iter(&self) -> std::slice::Iter<'_, Tag> {
        self.0.iter()
    }
}

impl Extend<Tag> for Tags {
    fn extend<I: IntoIterator<Item = Tag>>(&mut self, tags: I) {
        self.0.extend(tags);
    }
}

impl FromIterator<Tag> for Tags {
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Self {
        Self(tags.into_iter().collect())
    }
}

impl IntoIterator for Tags {
    type Item = Tag;
    type IntoIter = std::vec::IntoIter<Tag>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Tags {
    type Item = &'a Tag;
    type IntoIter = std::slice::Iter<'a, Tag>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Tag> for Tags {
    fn from(tag: Tag) -> Self {
        Self(vec![tag])
    }
}

impl From<&Tag> for Tags {
    fn from(tag: &Tag) -> Self {
        Self(vec![tag.clone()])
    }
}

impl From<Vec<Tag>> for Tags {
    fn from(tags: Vec<Tag>) -> Self {
        Self(tags)
    }
}

impl<const N: usize> From<[Tag; N]> for Tags {
    fn from(tags: [Tag; N]) -> Self {
        Self(tags.into())
    }
}
