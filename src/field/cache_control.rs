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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TARGET: HeaderName = HeaderName::from_static("cdn-cache-control");

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(name, line);
        }
        headers
    }

    fn response(lines: &[&str]) -> Result<ResponseControl, Malformed> {
        ResponseControl::of(&headers(&header::CACHE_CONTROL, lines))
    }

    fn targeted(lines: &[&str]) -> Option<ResponseControl> {
        ResponseControl::targeted(&headers(&TARGET, lines), &TARGET)
    }

    fn request(lines: &[&str]) -> RequestControl {
        RequestControl::of(&headers(&header::CACHE_CONTROL, lines))
    }

    fn fields(names: &[&'static str]) -> Option<Qualified> {
        let names = names.iter().map(|name| HeaderName::from_static(name));
        Some(Qualified::Fields(names.collect()))
    }

    // Invariant 3.
    #[test]
    fn what_forbids_storing_is_found_in_any_case_place_and_shape() {
        for line in [
            "no-store",
            "max-age=60, NO-STORE",
            "  ,,\tNo-Store ,",
            "no-store=\"x\"",
            "no-store=1",
            "no-store=",
            "public, no-store",
            "ext=\"a, b\", no-store",
            "no-store, no-store",
        ] {
            assert!(response(&[line]).unwrap().no_store, "{line}");
            assert!(response(&["public", line]).unwrap().no_store, "{line}");
        }
        for line in [
            "private",
            "public, PRIVATE",
            "private, private=\"x\"",
            "private=\"x\", private",
        ] {
            let private = response(&[line]).unwrap().private;
            assert_eq!(private, Some(Qualified::All), "{line}");
        }
        for line in ["no-CaChE", "ext=\"a, b\", no-cache", "no-cache=\"\""] {
            let no_cache = response(&[line]).unwrap().no_cache;
            assert_eq!(no_cache, Some(Qualified::All), "{line}");
        }
    }

    // Invariant 3.
    #[test]
    fn of_a_response_all_must_be_readable() {
        for line in [
            "no-store;max-age=1",
            "ext=\"no-store",
            "=1",
            "\u{fc}",
            "max-age 60",
            "max-age =60",
            "max-age= 60",
            "a=\"b\"c",
            "\"no-store\"",
        ] {
            assert_eq!(response(&[line]), Err(Malformed), "{line}");
            assert_eq!(response(&["public", line]), Err(Malformed), "{line}");
            assert_eq!(response(&[line, "public"]), Err(Malformed), "{line}");
        }
    }

    #[test]
    fn what_is_quoted_or_unknown_is_no_directive() {
        for line in [
            "",
            " , ",
            "ext=\"no-store\"",
            "ext=\"a\\\", private, \"",
            "x-no-store",
            "no-storex",
            "ext=no-store",
            "min-fresh=1, max-stale, only-if-cached",
        ] {
            assert_eq!(response(&[line]), Ok(ResponseControl::default()), "{line}");
        }
        let max_age = response(&["ext=\"max-age=3600\", max-age=1"])
            .unwrap()
            .max_age;
        assert_eq!(max_age, Some(1));
    }

    #[test]
    fn what_permits_counts_only_as_it_is_written_by_the_book() {
        let read = response(&["Public, must-understand, immutable"]).unwrap();
        assert!(read.public && read.must_understand && read.immutable);
        let read = response(&["public=1, must-understand=\"x\", immutable="]);
        assert_eq!(read, Ok(ResponseControl::default()));
        let read = response(&["must-revalidate=1, proxy-revalidate=\"\""]).unwrap();
        assert!(read.must_revalidate && read.proxy_revalidate);
    }

    // Invariants 3, 57.
    #[test]
    fn a_list_of_fields_is_read_or_taken_for_all() {
        let private = |line: &str| response(&[line]).unwrap().private;
        for (line, names) in [
            ("private=\"set-cookie\"", &["set-cookie"][..]),
            ("private=Set-Cookie", &["set-cookie"]),
            ("private=\" ,a , B,,a\"", &["a", "b"]),
            ("private=\"a\", private=\"b, a\"", &["a", "b"]),
            (r#"private="\a""#, &["a"]),
        ] {
            assert_eq!(private(line), fields(names), "{line}");
        }
        for line in [
            "private=",
            "private=\"\"",
            "private=\" , \"",
            "private=\"a b\"",
            "private=\"a, b;c\"",
            "private=\"a, \u{fc}\"",
            "private=\"a, *\"",
            "private=\"a\", private=\"(\"",
        ] {
            assert_eq!(private(line), Some(Qualified::All), "{line}");
        }
        let some = |range: std::ops::Range<usize>| {
            let names: Vec<_> = range.map(|n| format!("f{n}")).collect();
            format!("no-cache=\"{}\"", names.join(","))
        };
        let number = |lines: &[&str]| match response(lines).unwrap().no_cache {
            Some(Qualified::Fields(names)) => names.len(),
            _ => 0,
        };
        assert_eq!(number(&[&some(0..64), &some(0..64)]), 64);
        assert_eq!(number(&[&some(0..65)]), 0);
        assert_eq!(number(&[&some(0..40), &some(40..65)]), 0);
    }

    #[test]
    fn a_lifetime_that_is_no_number_is_none_and_of_several_the_shortest_counts() {
        for name in ["max-age", "s-maxage"] {
            let seconds = |lines: &[&str]| {
                let lines: Vec<_> = lines.iter().map(|line| line.replace('@', name)).collect();
                let lines: Vec<_> = lines.iter().map(String::as_str).collect();
                let read = response(&lines).unwrap();
                let (this, other) = match name {
                    "max-age" => (read.max_age, read.s_maxage),
                    _ => (read.s_maxage, read.max_age),
                };
                assert_eq!(other, None);
                this
            };
            assert_eq!(seconds(&[]), None);
            for line in ["@=3600", "@=\"3600\"", r#"@="36\00""#, "@=0003600"] {
                assert_eq!(seconds(&[line]), Some(3600), "{line}");
            }
            for line in [
                "@",
                "@=",
                "@=\"\"",
                "@=-1",
                "@=1.5",
                "@='60'",
                "@=a60",
                "@=60a",
                "@=\" 60\"",
                "@=\"60, 60\"",
            ] {
                assert_eq!(seconds(&[line]), Some(0), "{line}");
                assert_eq!(seconds(&["@=60", line]), Some(0), "{line}");
            }
            assert_eq!(seconds(&["@=60, @=30", "@=90"]), Some(30));
            assert_eq!(seconds(&["@=99999999999999999999"]), Some(LARGEST));
        }
    }

    #[test]
    fn stale_is_permitted_only_by_numbers() {
        let windows = |lines: &[&str]| {
            let read = response(lines).unwrap();
            (read.stale_while_revalidate, read.stale_if_error)
        };
        assert_eq!(
            windows(&["stale-while-revalidate=60, stale-if-error=\"30\""]),
            (Some(60), Some(30))
        );
        assert_eq!(
            windows(&["stale-if-error=60", "stale-if-error=30"]),
            (None, Some(30))
        );
        for invalid in ["", "=", "=-1", "=1.5", "=x"] {
            let line = format!("stale-while-revalidate{invalid}, stale-if-error{invalid}");
            assert_eq!(windows(&[&line]), (None, None), "{line}");
            let valid = "stale-while-revalidate=60, stale-if-error=60";
            assert_eq!(windows(&[valid, &line]), (None, None), "{line}");
            assert_eq!(windows(&[&line, valid]), (None, None), "{line}");
        }
    }

    #[test]
    fn a_targeted_field_is_a_dictionary() {
        let line = "no-store, public, must-revalidate, proxy-revalidate, must-understand, immutable, private, no-cache, \
                    max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4";
        let all = ResponseControl {
            no_store: true,
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            immutable: true,
            private: Some(Qualified::All),
            no_cache: Some(Qualified::All),
            max_age: Some(1),
            s_maxage: Some(2),
            stale_while_revalidate: Some(3),
            stale_if_error: Some(4),
        };
        assert_eq!(targeted(&[line]), Some(all.clone()));
        assert_eq!(response(&[line]), Ok(all.clone()));
        let lines: Vec<_> = line.split(", ").map(str::trim).collect();
        assert_eq!(targeted(&lines), Some(all));
        let max_age = |lines: &[&str]| targeted(lines).unwrap().max_age;
        assert_eq!(max_age(&["max-age=60;x=\"y\";z"]), Some(60));
        // RFC 9651 §4.2.2: the last one counts.
        assert_eq!(max_age(&["max-age=60, max-age=90"]), Some(90));
        assert_eq!(targeted(&["x"]), Some(ResponseControl::default()));
    }

    #[test]
    fn a_targeted_field_that_is_absent_empty_or_unreadable_is_not_there() {
        assert_eq!(targeted(&[]), None);
        for line in [
            "",
            "  ",
            "max-age=10000, &&&&&",
            "MaX-aGe=60",
            "No-Store",
            "max-age=60,",
            ", max-age=60",
            "max-age=",
            "max-age = 60",
            "max-age=1.5.5",
            "no-store;",
            "private=\"\u{fc}\"",
            "private=\"x",
            "private=(\"x\"",
        ] {
            assert_eq!(targeted(&[line]), None, "{line}");
            assert_eq!(targeted(&["no-store", line]), None, "{line}");
        }
    }

    // Invariant 3.
    #[test]
    fn in_a_targeted_field_types_are_enforced_and_what_forbids_does_so_whatever_its_type() {
        let read = |line: &str| targeted(&[line]).unwrap();
        for value in ["=1", "=x", "=\"x\"", "=1.5", "=:eA==:", "=(\"x\")", "=()"] {
            assert!(read(&format!("no-store{value}")).no_store, "{value}");
            let line = ["public", "must-understand", "immutable", "must-revalidate"]
                .map(|name| format!("{name}{value}"))
                .join(", ");
            assert_eq!(read(&line), ResponseControl::default(), "{line}");
        }
        for value in [
            "=1", "=x", "=1.5", "=(\"x\")", "=\"\"", "=\"a b\"", "=\"*\"",
        ] {
            let read = read(&format!("private{value}, no-cache{value}"));
            assert_eq!(read.private, Some(Qualified::All), "{value}");
            assert_eq!(read.no_cache, Some(Qualified::All), "{value}");
        }
        let fields_only = read("private=\"A, b\", no-cache=\"c\"");
        assert_eq!(fields_only.private, fields(&["a", "b"]));
        assert_eq!(fields_only.no_cache, fields(&["c"]));
        let none = "no-store=?0, private=?0, no-cache=?0, public=?0";
        assert_eq!(read(none), ResponseControl::default());
        let one = read("no-store=?1, private=?1, no-cache=?1, public=?1");
        assert!(one.no_store && one.private.is_some() && one.no_cache.is_some() && one.public);
    }

    #[test]
    fn in_a_targeted_field_a_number_is_an_integer() {
        for name in [
            "max-age",
            "s-maxage",
            "stale-while-revalidate",
            "stale-if-error",
        ] {
            let seconds = |value: &str| {
                let read = targeted(&[&format!("{name}{value}")]).unwrap();
                let numbers = [
                    read.max_age,
                    read.s_maxage,
                    read.stale_while_revalidate,
                    read.stale_if_error,
                ];
                numbers.into_iter().flatten().next()
            };
            assert_eq!(seconds("=60"), Some(60));
            assert_eq!(seconds("=0060"), Some(60));
            assert_eq!(seconds("=-60"), Some(0));
            assert_eq!(seconds("=999999999999999"), Some(LARGEST));
            for value in ["", "=?1", "=\"60\"", "=60.0", "=1.5", "=x", "=(60)"] {
                assert_eq!(seconds(value), None, "{name}{value}");
            }
        }
    }

    #[test]
    fn a_request_says_what_it_may_be_answered_with() {
        assert_eq!(request(&[]), RequestControl::default());
        let line = "No-Cache, no-store, only-if-cached, max-age=1, min-fresh=\"2\", max-stale=3, stale-if-error=4";
        let all = RequestControl {
            no_cache: true,
            no_store: true,
            only_if_cached: true,
            max_age: Some(1),
            min_fresh: Some(2),
            max_stale: Some(3),
            stale_if_error: Some(4),
        };
        assert_eq!(request(&[line]), all);
        assert_eq!(request(&line.split(", ").collect::<Vec<_>>()), all);
        let others = "public, private, must-revalidate, s-maxage=1, stale-while-revalidate=1, x";
        assert_eq!(request(&[others]), RequestControl::default());
        let argued = request(&["no-cache=\"x\", no-store=1, only-if-cached=1"]);
        assert!(argued.no_cache && argued.no_store && !argued.only_if_cached);
    }

    #[test]
    fn of_several_numbers_in_a_request_the_most_restrictive_counts() {
        assert_eq!(request(&["max-age=60, max-age=30"]).max_age, Some(30));
        assert_eq!(request(&["max-age=60", "max-age=x"]).max_age, Some(0));
        assert_eq!(request(&["min-fresh=30, min-fresh=60"]).min_fresh, Some(60));
        assert_eq!(request(&["min-fresh=30, min-fresh=x"]).min_fresh, Some(30));
        assert_eq!(request(&["min-fresh=x"]).min_fresh, None);
        assert_eq!(request(&["min-fresh"]).min_fresh, None);
        assert_eq!(request(&["max-stale"]).max_stale, Some(u64::MAX));
        assert_eq!(request(&["max-stale, max-stale=30"]).max_stale, Some(30));
        for line in [
            "max-stale=x",
            "max-stale=",
            "max-stale=\"\"",
            "max-stale=-1",
        ] {
            assert_eq!(request(&[line]).max_stale, None, "{line}");
            assert_eq!(request(&["max-stale", line]).max_stale, None, "{line}");
        }
        assert_eq!(request(&["stale-if-error"]).stale_if_error, None);
    }

    #[test]
    fn what_cannot_be_read_of_a_request_is_ignored_and_nothing_stale_is_permitted() {
        for line in [
            "no-cache, max-stale, stale-if-error=9, x;y, no-store",
            "no-cache, max-stale 60, no-store",
            "no-cache, stale-if-error=9;max-stale",
            "no-cache, max-stale=\"60, no-store",
        ] {
            let read = request(&[line, "max-age=5"]);
            let expected = RequestControl {
                no_cache: true,
                max_age: Some(5),
                ..RequestControl::default()
            };
            assert_eq!(read, expected, "{line}");
        }
    }

    #[test]
    fn pragma_counts_only_where_there_is_no_cache_control() {
        let mut headers = headers(&header::PRAGMA, &["x", "y=\"no-cache\", No-Cache"]);
        assert!(RequestControl::of(&headers).no_cache);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(""));
        assert!(!RequestControl::of(&headers).no_cache);
        headers.remove(header::CACHE_CONTROL);
        headers.insert(
            header::PRAGMA,
            HeaderValue::from_static("no-store, max-age=0"),
        );
        assert_eq!(RequestControl::of(&headers), RequestControl::default());
    }
}
