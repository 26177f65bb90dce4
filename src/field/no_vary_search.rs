//! Which parameters of a query a response does not depend on: `No-Vary-Search` (draft-ietf-httpbis-no-vary-search).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, ListEntry};

use super::structured;

const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// How queries are compared, where that is not byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoVarySearch {
    parameters: Parameters,
    /// In which order parameters of different names stand does not matter.
    any_order: bool,
}

/// Names, decoded and in order, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Parameters {
    /// All matter but these.
    Except(Box<[Box<str>]>),
    /// These matter.
    Only(Box<[Box<str>]>),
}

impl NoVarySearch {
    /// A field that names more parameters than this is ignored.
    const MAX_NAMES: usize = 64;

    /// `None` if the field is absent or invalid, or says what holds without it: then queries are equivalent if they are equal.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let members = structured::dictionary(headers, &NO_VARY_SEARCH)?;
        let any_order = match members.get("key-order") {
            None => false,
            Some(ListEntry::Item(item)) => match item.bare_item {
                BareItem::Boolean(any_order) => any_order,
                _ => return None,
            },
            Some(ListEntry::InnerList(_)) => return None,
        };
        let parameters = match (members.get("params"), members.get("except")) {
            (None, None) => Parameters::Except(Box::default()),
            (Some(params), None) => Parameters::Except(names(params)?),
            (None, Some(except)) => Parameters::Only(names(except)?),
            (Some(_), Some(_)) => return None,
        };
        let read = Self {
            parameters,
            any_order,
        };
        (!read.is_default()).then_some(read)
    }

    fn is_default(&self) -> bool {
        let all_matter = match &self.parameters {
            Parameters::Except(names) => names.is_empty(),
            Parameters::Only(_) => false,
        };
        all_matter && !self.any_order
    }

    /// Two queries are equivalent exactly if these are equal.
    pub(crate) fn canonical(&self, query: Option<&str>) -> Vec<u8> {
        let query = query.unwrap_or_default().as_bytes();
        let mut pairs: Vec<_> = form_urlencoded::parse(query)
            .filter(|(name, _)| self.parameters.matter(name))
            .collect();
        if self.any_order {
            // Stable: the values of one name stay in their order.
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        let mut canonical = Vec::with_capacity(query.len() + pairs.len() * 2 * size_of::<u64>());
        for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
            canonical.extend_from_slice(&(part.len() as u64).to_le_bytes());
            canonical.extend_from_slice(part.as_bytes());
        }
        canonical
    }

    /// Bytes that it takes.
    pub(crate) fn weight(&self) -> usize {
        let (Parameters::Except(names) | Parameters::Only(names)) = &self.parameters;
        let names = names.iter().map(|name| name.len() + size_of::<Box<str>>());
        size_of::<Self>() + names.sum::<usize>()
    }
}

impl Parameters {
    fn matter(&self, name: &str) -> bool {
        let is_in =
            |names: &[Box<str>]| names.binary_search_by(|known| (**known).cmp(name)).is_ok();
        match self {
            Self::Except(names) => !is_in(names),
            Self::Only(names) => is_in(names),
        }
    }
}

/// An inner list of strings, and nothing else.
fn names(value: &ListEntry) -> Option<Box<[Box<str>]>> {
    let ListEntry::InnerList(list) = value else {
        return None;
    };
    if list.items.len() > NoVarySearch::MAX_NAMES {
        return None;
    }
    let name = |item: &sfv::Item| match &item.bare_item {
        BareItem::String(name) => Some(decoded(name.as_str()).into()),
        _ => None,
    };
    let mut names = list.items.iter().map(name).collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names.into())
}

/// A name as the queries' are decoded. What separates parameters there is part of the name here.
fn decoded(name: &str) -> String {
    let whole = name.replace('&', "%26").replace('=', "%3D");
    let mut pairs = form_urlencoded::parse(whole.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(name, _)| Cow::into_owned(name))
}
