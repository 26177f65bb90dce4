//! Tags: names of what a response shows.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    marker::PhantomData,
    panic::Location,
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

    /// Whether no two of these names are equal, as the compiler may be asked: see [`TagFamily`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Tag;
    /// const _: () = assert!(Tag::are_distinct(&["product", "category"]));
    /// assert!(!Tag::are_distinct(&["product", "category", "product"]));
    /// ```
    #[must_use]
    pub const fn are_distinct(names: &[&str]) -> bool {
        let mut first = 0;
        while first < names.len() {
            let mut second = first + 1;
            while second < names.len() {
                if equal(names[first].as_bytes(), names[second].as_bytes()) {
                    return false;
                }
                second += 1;
            }
            first += 1;
        }
        true
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

/// As `==`, which the compiler cannot do yet.
const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
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
/// const LISTING: TagFamily<(u64, str)> = TagFamily::new("listing");
///
/// assert_eq!(PRODUCT.tag(7).as_str(), "product:7");
/// assert_eq!(CATEGORY.tag("shoes").as_str(), "category:shoes");
/// assert_eq!(LISTING.tag2(7, "de").as_str(), "listing:7:de");
/// ```
///
/// An argument of another type does not compile:
///
/// ```compile_fail
/// # use tower_response_cache::TagFamily;
/// const PRODUCT: TagFamily<u64> = TagFamily::new("product");
/// PRODUCT.tag("seven");
/// ```
///
/// # Two families of one name
///
/// would purge each other's responses. Where the families stand in one file, the compiler can see to it that there are none:
///
/// ```
/// # use tower_response_cache::{Tag, TagFamily};
/// # const PRODUCT: TagFamily<u64> = TagFamily::new("product");
/// # const CATEGORY: TagFamily<str> = TagFamily::new("category");
/// const _: () = assert!(Tag::are_distinct(&[PRODUCT.name(), CATEGORY.name()]));
/// ```
///
/// Wherever they stand, a build with debug assertions (`cargo test`, `cargo run`) panics when tags of two families with one
/// name are made, and says where both were defined.
pub struct TagFamily<A: ?Sized> {
    name: &'static str,
    defined_at: &'static Location<'static>,
    arguments: PhantomData<fn(&A)>,
}

impl<A: ?Sized> TagFamily<A> {
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
    #[track_caller]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            defined_at: Location::caller(),
            arguments: PhantomData,
        }
    }

    /// The family's name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::TagFamily;
    /// const AUTHOR: TagFamily<u32> = TagFamily::new("author");
    /// assert_eq!(AUTHOR.name(), "author");
    /// ```
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    fn of(&self, arguments: fmt::Arguments<'_>) -> Tag {
        #[cfg(debug_assertions)]
        self.assert_alone();
        Tag(Cow::Owned(format!("{}:{arguments}", self.name)))
    }

    /// # Panics
    ///
    /// If a family of the same name was defined elsewhere, and has made a tag.
    #[cfg(debug_assertions)]
    fn assert_alone(&self) {
        use std::{
            any::type_name,
            collections::BTreeMap,
            sync::{Mutex, PoisonError},
        };

        type Definition = (&'static Location<'static>, &'static str);
        static DEFINED: Mutex<BTreeMap<&str, Definition>> = Mutex::new(BTreeMap::new());
        // What a macro or a function defines at one place may differ in its arguments.
        let this = (self.defined_at, type_name::<A>());
        let first = {
            let mut defined = DEFINED.lock().unwrap_or_else(PoisonError::into_inner);
            *defined.entry(self.name).or_insert(this)
        };
        assert!(
            first == this,
            "two tag families are named {:?}, one of {} at {}, one of {} at {}: use one for both, or name one otherwise",
            self.name,
            first.1,
            first.0,
            this.1,
            this.0,
        );
    }
}

impl<A: ?Sized + fmt::Display> TagFamily<A> {
    /// The tag of one thing of this kind.
    ///
    /// # Panics
    ///
    /// With debug assertions, if another family has the same name.
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
        self.of(format_args!("{}", argument.borrow()))
    }
}

impl<A: fmt::Display, B: ?Sized + fmt::Display> TagFamily<(A, B)> {
    /// The tag of a thing that is named by two arguments. If an argument has a `:` in it, two things may have one tag, and
    /// are purged together.
    ///
    /// # Panics
    ///
    /// With debug assertions, if another family has the same name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::TagFamily;
    /// const LISTING: TagFamily<(u64, str)> = TagFamily::new("listing");
    /// assert_eq!(LISTING.tag2(7, "de").as_str(), "listing:7:de");
    /// ```
    #[must_use]
    pub fn tag2(&self, first: impl Borrow<A>, second: impl Borrow<B>) -> Tag {
        self.of(format_args!("{}:{}", first.borrow(), second.borrow()))
    }
}

impl<A: fmt::Display, B: fmt::Display, C: ?Sized + fmt::Display> TagFamily<(A, B, C)> {
    /// The tag of a thing that is named by three arguments; as [`tag2`](TagFamily::tag2).
    ///
    /// # Panics
    ///
    /// With debug assertions, if another family has the same name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::TagFamily;
    /// const STOCK: TagFamily<(u32, u64, str)> = TagFamily::new("stock");
    /// assert_eq!(STOCK.tag3(1, 7, "blue").as_str(), "stock:1:7:blue");
    /// ```
    #[must_use]
    pub fn tag3(
        &self,
        first: impl Borrow<A>,
        second: impl Borrow<B>,
        third: impl Borrow<C>,
    ) -> Tag {
        let (first, second, third) = (first.borrow(), second.borrow(), third.borrow());
        self.of(format_args!("{first}:{second}:{third}"))
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
        f.debug_struct("TagFamily")
            .field("name", &self.name)
            .field("defined_at", &format_args!("{}", self.defined_at))
            .finish()
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

    /// The responses that bear all of these, for a [purge](crate::CacheHandle::purge). Of none, there are none.
    ///
    /// The first 16 tags count: beyond them more is purged than bears all, never less.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag, Tags};
    /// # async fn example(cache: CacheHandle) -> Result<(), PurgeError> {
    /// cache.purge(Tags::all_of([Tag::new("category:shoes"), Tag::new("shop:de")])).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn all_of(tags: impl Into<Self>) -> Tagged {
        Tagged {
            tags: tags.into(),
            all: true,
        }
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

/// Which responses a purge is of: those that bear any of some tags, or all of them.
///
/// Made of a [`Tag`], of several, of [`Tags`], or by [`Tags::all_of`].
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Tag, Tagged, Tags};
///
/// let shown_anywhere = Tagged::from([Tag::new("product:7"), Tag::new("product:8")]);
/// let shown_together = Tags::all_of([Tag::new("product:7"), Tag::new("shop:de")]);
/// # let _ = (shown_anywhere, shown_together);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    pub(crate) tags: Tags,
    pub(crate) all: bool,
}

impl<T: Into<Tags>> From<T> for Tagged {
    fn from(tags: T) -> Self {
        Self {
            tags: tags.into(),
            all: false,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHELF: TagFamily<u32> = TagFamily::new("test-shelf");

    #[test]
    fn a_family_may_be_used_from_anywhere() {
        const SAME: TagFamily<u32> = SHELF;
        assert_eq!(SHELF.tag(1), SAME.tag(1));
        let named_at_run_time = (1..3).map(|_| TagFamily::<u32>::new("test-loop").tag(1));
        assert_eq!(named_at_run_time.count(), 2);
    }

    #[test]
    fn two_families_of_one_name_are_noticed_with_their_second_tag() {
        const FIRST: TagFamily<u32> = TagFamily::new("test-twice");
        const SECOND: TagFamily<str> = TagFamily::new("test-twice");
        let _ = FIRST.tag(1);
        let panic = std::panic::catch_unwind(|| SECOND.tag("x")).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("\"test-twice\""), "{message}");
        assert_eq!(message.matches("tag.rs:").count(), 2, "{message}");
        let _ = FIRST.tag(2);
    }

    #[test]
    fn the_compiler_can_tell_names_apart() {
        const {
            assert!(Tag::are_distinct(&[]));
            assert!(Tag::are_distinct(&["a", "b", "ab", ""]));
            assert!(!Tag::are_distinct(&["a", "b", "a"]));
        }
    }
}
