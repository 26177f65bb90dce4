//! Response headers that carry tags.

use http::{HeaderMap, HeaderName};

/// A response header from which the cache reads tags.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{CacheLayer, TagHeader};
///
/// let cache = CacheLayer::builder()
///     .tag_header(TagHeader::SURROGATE_KEY.strip())
///     .tag_header(TagHeader::CACHE_TAG)
///     .build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagHeader {
    name: HeaderName,
    separator: u8,
    strip: bool,
}

impl TagHeader {
    /// `Surrogate-Key: product:7 products`, tags separated by white space, as Fastly and Varnish have it.
    pub const SURROGATE_KEY: Self = Self::new(HeaderName::from_static("surrogate-key"), b' ');

    /// `Cache-Tag: product:7,products`, tags separated by commas, as Cloudflare has it. Case matters here.
    pub const CACHE_TAG: Self = Self::new(HeaderName::from_static("cache-tag"), b',');

    /// A header of any name, its tags separated by this byte. White space around a tag is not part of it.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_response_cache::TagHeader;
    ///
    /// const MINE: TagHeader = TagHeader::new(HeaderName::from_static("x-tags"), b'|');
    /// # let _ = MINE;
    /// ```
    #[must_use]
    pub const fn new(name: HeaderName, separator: u8) -> Self {
        Self {
            name,
            separator,
            strip: false,
        }
    }

    /// Removes the header from every response of the layer on its way out.
    ///
    /// # Examples
    ///
    /// ```
    /// let hidden = tower_response_cache::TagHeader::CACHE_TAG.strip();
    /// # let _ = hidden;
    /// ```
    #[must_use]
    pub fn strip(mut self) -> Self {
        self.strip = true;
        self
    }

    pub(crate) fn name(&self) -> &HeaderName {
        &self.name
    }

    pub(crate) fn stripped(&self) -> bool {
        self.strip
    }

    /// The tags that a response carries in this header, over all of its lines.
    pub(crate) fn tags<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> {
        headers
            .get_all(&self.name)
            .iter()
            .flat_map(|line| line.as_bytes().split(|&b| b == self.separator))
            .map(<[u8]>::trim_ascii)
            .filter(|tag| !tag.is_empty())
    }
}
