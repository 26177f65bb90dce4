//! `Cache-Control` of requests and responses (RFC 9111 §5.2), and the fields that stand for it (RFC 9213).

use http::{HeaderMap, HeaderName, header};
use sfv::{BareItem, ListEntry};

use super::{
    directive::{Directive, Malformed, Name, directives},
    number::LARGEST,
    structured,
};

/// What a response says of its being cached, in all lines of `Cache-Control` (RFC 9111 §5.2.2) or in a targeted field
/// (RFC 9213). Times are seconds, and 2^31 at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResponseControl {
    pub(crate) no_store: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) immutable: bool,
    pub(crate) private: Option<Qualified>,
    pub(crate) no_cache: Option<Qualified>,
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

/// What `private` or `no-cache` is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Qualified {
    /// The response.
    All,
    /// These fields of it, each once; at least one.
    Fields(Vec<HeaderName>),
}

/// What a request says of what it may be answered with (RFC 9111 §5.2.1). Times are seconds, and 2^31 at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RequestControl {
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    /// `u64::MAX` if however stale will do.
    pub(crate) max_stale: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

impl ResponseControl {
    /// What the field `Cache-Control` says.
    ///
    /// # Errors
    ///
    /// If any of it cannot be read: what is not understood may forbid anything.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Malformed> {
        let mut control = Self::default();
        let mut while_revalidate = Permission::default();
        let mut if_error = Permission::default();
        for directive in directives(headers, &header::CACHE_CONTROL) {
            let directive = directive?;
            match directive.name {
                Some(Name::StaleWhileRevalidate) => while_revalidate.add(directive.seconds()),
                Some(Name::StaleIfError) => if_error.add(directive.seconds()),
                Some(name) => control.heed(name, &directive),
                // RFC 9111 §5.2.3: what is unknown is ignored.
                None => {}
            }
        }
        control.stale_while_revalidate = while_revalidate.seconds();
        control.stale_if_error = if_error.seconds();
        Ok(control)
    }

    fn heed(&mut self, name: Name, directive: &Directive<'_>) {
        // What takes no argument and has one still forbids, and does not permit.
        match name {
            Name::NoStore => self.no_store = true,
            Name::MustRevalidate => self.must_revalidate = true,
            Name::ProxyRevalidate => self.proxy_revalidate = true,
            Name::Public => self.public |= directive.is_bare(),
            Name::MustUnderstand => self.must_understand |= directive.is_bare(),
            Name::Immutable => self.immutable |= directive.is_bare(),
            Name::Private => unite(&mut self.private, Qualified::of(directive)),
            Name::NoCache => unite(&mut self.no_cache, Qualified::of(directive)),
            // RFC 9111 §4.2.1: what is not a number is stale.
            Name::MaxAge => shorten(&mut self.max_age, directive.seconds().unwrap_or(0)),
            Name::SMaxage => shorten(&mut self.s_maxage, directive.seconds().unwrap_or(0)),
            // Those of requests, and those that are read elsewhere.
            _ => {}
        }
    }

    /// What a targeted field says. `None` if it is absent, empty or cannot be read: then it is not there (RFC 9213 §2.1).
    pub(crate) fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let members = structured::dictionary(headers, name)?;
        if members.is_empty() {
            return None;
        }
        let mut control = Self::default();
        for (name, value) in &members {
            // Unlike in Cache-Control, names are lower-case, which the dictionary has seen to.
            if let Some(name) = Name::of(name.as_str().as_bytes()) {
                control.heed_member(name, value);
            }
        }
        Some(control)
    }

    /// RFC 9213 §2.1: a value of another type is not consumed, unless what it belongs to forbids.
    fn heed_member(&mut self, name: Name, value: &ListEntry) {
        match name {
            Name::NoStore => self.no_store = boolean(value) != Some(false),
            Name::Private => self.private = Qualified::of_member(value),
            Name::NoCache => self.no_cache = Qualified::of_member(value),
            Name::Public => self.public = boolean(value) == Some(true),
            Name::MustRevalidate => self.must_revalidate = boolean(value) == Some(true),
            Name::ProxyRevalidate => self.proxy_revalidate = boolean(value) == Some(true),
            Name::MustUnderstand => self.must_understand = boolean(value) == Some(true),
            Name::Immutable => self.immutable = boolean(value) == Some(true),
            Name::MaxAge => self.max_age = integer(value),
            Name::SMaxage => self.s_maxage = integer(value),
            Name::StaleWhileRevalidate => self.stale_while_revalidate = integer(value),
            Name::StaleIfError => self.stale_if_error = integer(value),
            Name::MaxStale | Name::MinFresh | Name::OnlyIfCached => {}
        }
    }
}

impl Qualified {
    /// With more fields than this, it is about all.
    const MAX_FIELDS: usize = 64;

    fn of(directive: &Directive<'_>) -> Self {
        let argument = directive.argument.as_deref();
        argument.map_or(Self::All, Self::fields)
    }

    /// `None` if it is said not to be there.
    fn of_member(value: &ListEntry) -> Option<Self> {
        match bare(value) {
            Some(BareItem::Boolean(false)) => None,
            Some(BareItem::String(names)) => Some(Self::fields(names.as_str().as_bytes())),
            _ => Some(Self::All),
        }
    }

    /// RFC 9111 §5.2.2.4, §5.2.2.7: a list of fields' names. What is none is taken for the form without.
    fn fields(list: &[u8]) -> Self {
        let mut fields = Vec::new();
        for name in list.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            // RFC 9110 §5.6.1.2: members may be empty.
            if name.is_empty() {
                continue;
            }
            // RFC 9110 §16.3.1: `*` is no field's name.
            let name = HeaderName::from_bytes(name).ok().filter(|name| name != "*");
            let Some(name) = name else {
                return Self::All;
            };
            if !add(&mut fields, name) {
                return Self::All;
            }
        }
        if fields.is_empty() {
            return Self::All;
        }
        Self::Fields(fields)
    }
}

/// Whether there was room for it, or no need.
fn add(fields: &mut Vec<HeaderName>, name: HeaderName) -> bool {
    if fields.contains(&name) {
        return true;
    }
    fields.push(name);
    fields.len() <= Qualified::MAX_FIELDS
}

/// RFC 9111 §4.2.1: of several, the most restrictive.
fn unite(known: &mut Option<Qualified>, other: Qualified) {
    *known = Some(match (known.take(), other) {
        (None, other) => other,
        (Some(Qualified::Fields(mut fields)), Qualified::Fields(others)) => {
            let fit = others.into_iter().all(|name| add(&mut fields, name));
            if fit {
                Qualified::Fields(fields)
            } else {
                Qualified::All
            }
        }
        _ => Qualified::All,
    });
}

/// RFC 9111 §4.2.1: of several, the most restrictive.
fn shorten(known: &mut Option<u64>, seconds: u64) {
    *known = Some(known.map_or(seconds, |known| known.min(seconds)));
}

/// For how long something is permitted: the shortest of what is said, and not at all if one of that is no number.
#[derive(Debug, Default)]
struct Permission(Option<Option<u64>>);

impl Permission {
    fn add(&mut self, seconds: Option<u64>) {
        // `None` is less than any number.
        self.0 = Some(self.0.map_or(seconds, |known| known.min(seconds)));
    }

    fn seconds(self) -> Option<u64> {
        self.0.flatten()
    }
}

fn bare(value: &ListEntry) -> Option<&BareItem> {
    match value {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

fn boolean(value: &ListEntry) -> Option<bool> {
    match bare(value) {
        Some(BareItem::Boolean(value)) => Some(*value),
        _ => None,
    }
}

fn integer(value: &ListEntry) -> Option<u64> {
    match bare(value) {
        Some(BareItem::Integer(value)) => {
            // What is over before it begins is stale.
            let seconds = u64::try_from(i64::from(*value)).unwrap_or(0);
            Some(seconds.min(LARGEST))
        }
        _ => None,
    }
}

impl RequestControl {
    /// What a request says in `Cache-Control`, or in `Pragma` if it has none. What cannot be read is ignored, with the
    /// rest of its line; then nothing stale is permitted either, since that rest may have forbidden it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if !headers.contains_key(header::CACHE_CONTROL) {
            return Self::of_pragma(headers);
        }
        let mut control = Self::default();
        let mut max_stale = Permission::default();
        let mut if_error = Permission::default();
        let mut is_whole = true;
        for directive in directives(headers, &header::CACHE_CONTROL) {
            let Ok(directive) = directive else {
                is_whole = false;
                continue;
            };
            match directive.name {
                // RFC 9111 §5.2.1.2: without a number, however stale.
                Some(Name::MaxStale) if directive.is_bare() => max_stale.add(Some(u64::MAX)),
                Some(Name::MaxStale) => max_stale.add(directive.seconds()),
                Some(Name::StaleIfError) => if_error.add(directive.seconds()),
                Some(name) => control.heed(name, &directive),
                // RFC 9111 §5.2.3: what is unknown is ignored.
                None => {}
            }
        }
        if is_whole {
            control.max_stale = max_stale.seconds();
            control.stale_if_error = if_error.seconds();
        }
        control
    }

    fn heed(&mut self, name: Name, directive: &Directive<'_>) {
        match name {
            Name::NoCache => self.no_cache = true,
            Name::NoStore => self.no_store = true,
            Name::OnlyIfCached => self.only_if_cached |= directive.is_bare(),
            Name::MaxAge => shorten(&mut self.max_age, directive.seconds().unwrap_or(0)),
            Name::MinFresh => self.min_fresh = self.min_fresh.max(directive.seconds()),
            // Those of responses, and those that are read elsewhere.
            _ => {}
        }
    }

    /// RFC 9111 §5.4: `no-cache` is the only directive of `Pragma`.
    fn of_pragma(headers: &HeaderMap) -> Self {
        let mut directives = directives(headers, &header::PRAGMA).flatten();
        Self {
            no_cache: directives.any(|directive| directive.name == Some(Name::NoCache)),
            ..Self::default()
        }
    }
}
