//! Fragments: requests of htmx, Turbo and their like for a part of a page.
//!
//! A handler answers the same URL with a page, or with a fragment of it where a header asks for one. The headers that do
//! so in wide use are known here. What a request says in them makes a [`Fragment`], by which stored responses are told
//! apart as by a `Vary` that the handler may have forgotten. It is no part of the key, so a purge of the page covers all
//! of its fragments.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::selection::Selection;
use crate::status::Reason;

/// What a request says in the headers that ask for a fragment: one line for each, ordered by name. A header that says
/// yes or no is its name; another one is its name, a colon and its values, with NUL between them. `None` for a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fragment(Option<Box<[u8]>>);

/// How a header that asks for a fragment counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// As present or absent. Where nothing but the key may be seen, this value stands for all others.
    Present(&'static str),
    /// As present if this is its value.
    PresentAs(&'static str),
    /// By its value.
    ByValue,
}

/// Longer values make a request bypass the cache.
const MAX_VALUE_BYTES: usize = 64;

/// More such headers make a request bypass the cache.
const MAX_HEADERS: usize = 16;

/// Whether this header may ask for a fragment. This runs for every header of every request: most names end at their
/// first letters.
#[inline]
fn may_ask(name: &HeaderName) -> bool {
    matches!(
        name.as_str().as_bytes(),
        [b'h', b'x', b'-', ..]
            | [b'x', b'-', b'a' | b'i' | b'p' | b'r' | b'u', ..]
            | [b'r', b's', b'c']
            | [b't', b'u', b'r', b'b', ..]
            | [b'n', b'e', b'x', b't', ..]
            | [b'd', b'a', b't', b'a', ..]
            | [b'f', b'x', b'-', ..]
    )
}

/// How a header counts, if it asks for a fragment.
fn counts(name: &HeaderName) -> Option<Counts> {
    let name = name.as_str();
    let counts = match name {
        // htmx
        "hx-request" | "hx-boosted" | "hx-history-restore-request" => Counts::Present("true"),
        "hx-target" => Counts::ByValue,
        // Turbo
        "turbo-frame" => Counts::ByValue,
        // PJAX
        "x-pjax" => Counts::Present("true"),
        "x-pjax-container" => Counts::ByValue,
        // Inertia
        "x-inertia" => Counts::Present("true"),
        _ if name.starts_with("x-inertia-") => Counts::ByValue,
        // Unpoly
        _ if name.starts_with("x-up-") => Counts::ByValue,
        // React Server Components, Next.js
        "rsc" | "next-router-prefetch" => Counts::Present("1"),
        "next-router-state-tree" | "next-router-segment-prefetch" => Counts::ByValue,
        // Alpine AJAX, fixi, Datastar
        "x-alpine-request" | "fx-request" | "datastar-request" => Counts::Present("true"),
        "x-alpine-target" => Counts::ByValue,
        // jQuery, Prototype and others. An Android WebView sends the name of its application instead.
        "x-requested-with" => Counts::PresentAs("XMLHttpRequest"),
        _ => return None,
    };
    Some(counts)
}

impl Fragment {
    /// # Errors
    ///
    /// [`Reason::Fragment`], if a value is longer or if there are more headers than may be told apart.
    fn of(selection: &Selection, headers: &HeaderMap) -> Result<Self, Reason> {
        let mut asked: Vec<(&HeaderName, Counts)> = headers
            .keys()
            .filter(|name| selection.asks_for_fragment(name))
            .filter_map(|name| Some((name, counts(name)?)))
            .filter(|(name, counts)| counts.is_met(headers, name))
            .collect();
        if asked.is_empty() {
            return Ok(Self(None));
        }
        if asked.len() > MAX_HEADERS {
            return Err(Reason::Fragment);
        }
        asked.sort_unstable_by_key(|(name, _)| name.as_str());
        let mut lines = Vec::new();
        for (name, counts) in asked {
            lines.extend_from_slice(name.as_str().as_bytes());
            if counts == Counts::ByValue {
                lines.push(b':');
                lines.extend_from_slice(&value(headers, name)?);
            }
            lines.push(b'\n');
        }
        Ok(Self(Some(lines.into())))
    }

    /// Whether the request is for the page.
    pub(crate) fn is_page(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }

    pub(crate) fn weight(&self) -> usize {
        self.0.as_ref().map_or(0, |lines| lines.len())
    }

    /// Each header with what it said: nothing, where it counts as present.
    pub(crate) fn told(&self) -> impl Iterator<Item = (HeaderName, Option<&[u8]>)> {
        let lines = self.0.iter().flat_map(|lines| lines.split(|b| *b == b'\n'));
        lines.filter_map(|line| {
            let colon = line.iter().position(|b| *b == b':');
            let (name, value) = match colon {
                Some(at) => (&line[..at], Some(&line[at + 1..])),
                None => (line, None),
            };
            Some((HeaderName::from_bytes(name).ok()?, value))
        })
    }
}

impl Counts {
    fn is_met(self, headers: &HeaderMap, name: &HeaderName) -> bool {
        match self {
            Self::PresentAs(wanted) => {
                let mut lines = headers.get_all(name).iter();
                lines.any(|line| line.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
            }
            _ => true,
        }
    }
}

/// All lines of a header, with NUL between them, which none can hold.
fn value(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<u8>, Reason> {
    let lines: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let value = lines.join(&0);
    if value.len() > MAX_VALUE_BYTES {
        return Err(Reason::Fragment);
    }
    Ok(value)
}

impl Selection {
    /// Which fragment of a page a request is for.
    ///
    /// # Errors
    ///
    /// [`Reason::Fragment`], if it says so at greater length than the cache tells fragments apart.
    #[inline]
    pub(crate) fn fragment(&self, headers: &HeaderMap) -> Result<Fragment, Reason> {
        if self.fragments && headers.keys().any(may_ask) {
            Fragment::of(self, headers)
        } else {
            Ok(Fragment::default())
        }
    }

    /// Whether this header asks for a fragment, and is not in the key by itself.
    pub(super) fn asks_for_fragment(&self, name: &HeaderName) -> bool {
        self.fragments && may_ask(name) && counts(name).is_some() && !self.keys_header(name)
    }

    /// Whether fragments are told apart by this header's value: then the inner service sees it behind a seal, too.
    pub(super) fn keeps_for_fragments(&self, name: &HeaderName) -> bool {
        self.asks_for_fragment(name) && counts(name) == Some(Counts::ByValue)
    }

    /// The one value that the inner service sees behind a seal of a header that counts as present or absent.
    pub(super) fn sealed_fragment(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
    ) -> Option<HeaderValue> {
        let counts = counts(name).filter(|_| self.asks_for_fragment(name))?;
        match counts {
            Counts::Present(value) | Counts::PresentAs(value) => {
                let value = HeaderValue::from_static(value);
                counts.is_met(headers, name).then_some(value)
            }
            Counts::ByValue => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(lines: &[(&'static str, &str)]) -> Result<Fragment, Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        let selection = Selection {
            fragments: true,
            ..Selection::default()
        };
        selection.fragment(&headers)
    }

    // Invariant 7.
    #[test]
    fn requests_for_different_fragments_are_told_apart() {
        let long = "x".repeat(MAX_VALUE_BYTES);
        let requests: &[&[(&'static str, &str)]] = &[
            &[],
            &[("hx-request", "true")],
            &[("hx-boosted", "true")],
            &[("hx-request", "true"), ("hx-boosted", "true")],
            &[("hx-request", "true"), ("hx-target", "main")],
            &[("hx-request", "true"), ("hx-target", "main2")],
            &[("hx-request", "true"), ("hx-target", "")],
            &[("hx-target", "a"), ("hx-target", "b")],
            &[("hx-target", "b"), ("hx-target", "a")],
            &[("hx-target", "ab")],
            &[("hx-target", &long)],
            &[("turbo-frame", "main")],
            &[("turbo-frame", "hx-request")],
            &[("x-inertia", "true")],
            &[("x-inertia", "true"), ("x-inertia-version", "1")],
            &[("x-inertia", "true"), ("x-inertia-partial-data", "1")],
            &[("x-up-target", "main")],
            &[("x-up-mode", "main")],
            &[("x-pjax", "true")],
            &[("rsc", "1")],
            &[("rsc", "1"), ("next-router-prefetch", "1")],
            &[("x-requested-with", "XMLHttpRequest")],
        ];
        let fragments: Vec<_> = requests
            .iter()
            .map(|lines| fragment(lines).unwrap())
            .collect();
        for (at, one) in fragments.iter().enumerate() {
            for (behind, other) in fragments.iter().enumerate().skip(at + 1) {
                assert_ne!(one, other, "{:?} {:?}", requests[at], requests[behind]);
            }
        }
        assert!(fragments[0].is_page());
    }

    #[test]
    fn headers_that_say_yes_count_as_present_in_any_order_and_case() {
        let same = [
            [
                ("hx-request", "true"),
                ("x-requested-with", "XMLHttpRequest"),
            ],
            [("x-requested-with", "xmlhttprequest"), ("hx-request", "1")],
        ];
        let [one, other] = same.map(|lines| fragment(&lines));
        assert_eq!(one, other);
    }

    #[test]
    fn other_headers_are_for_the_page() {
        for line in [
            ("accept", "text/html"),
            ("x-requested-with", "com.example.app"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-inert", "1"),
            ("x-upper", "1"),
            ("next", "1"),
            ("rsc-", "1"),
            ("hx-current-url", "https://shop.example/"),
            ("hx-trigger", "button-7"),
            ("x-request-id", "7"),
        ] {
            assert!(fragment(&[line]).unwrap().is_page(), "{line:?}");
        }
    }

    // Invariant 57.
    #[test]
    fn a_value_beyond_the_limit_makes_the_request_bypass() {
        let long = "x".repeat(MAX_VALUE_BYTES + 1);
        assert_eq!(fragment(&[("hx-target", &long)]), Err(Reason::Fragment));
        let half = "x".repeat(MAX_VALUE_BYTES / 2);
        let twice = [("hx-target", &*half), ("hx-target", &*half)];
        assert_eq!(fragment(&twice), Err(Reason::Fragment));
        assert!(fragment(&[("hx-request", &long)]).is_ok());

        let names: Vec<&'static str> = (0..=MAX_HEADERS)
            .map(|number| &*format!("x-up-{number}").leak())
            .collect();
        let lines: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
        assert!(fragment(&lines[..MAX_HEADERS]).is_ok());
        assert_eq!(fragment(&lines), Err(Reason::Fragment));
    }

    #[test]
    fn every_header_that_counts_passes_the_first_test_by_letters() {
        for name in [
            "hx-request",
            "hx-boosted",
            "hx-history-restore-request",
            "hx-target",
            "turbo-frame",
            "x-pjax",
            "x-pjax-container",
            "x-inertia",
            "x-inertia-version",
            "x-inertia-partial-data",
            "x-up-version",
            "rsc",
            "next-router-prefetch",
            "next-router-state-tree",
            "next-router-segment-prefetch",
            "x-alpine-request",
            "x-alpine-target",
            "fx-request",
            "datastar-request",
            "x-requested-with",
        ] {
            let name = HeaderName::from_static(name);
            assert!(counts(&name).is_some() && may_ask(&name), "{name}");
        }
    }

    #[test]
    fn a_fragment_is_told_by_its_headers() {
        let fragment = fragment(&[("hx-target", "a"), ("hx-target", "b:"), ("rsc", "1")]).unwrap();
        let told: Vec<_> = fragment.told().collect();
        let name = HeaderName::from_static;
        assert_eq!(
            told,
            [
                (name("hx-target"), Some(&b"a\0b:"[..])),
                (name("rsc"), None)
            ]
        );
        assert_eq!(Fragment::default().told().count(), 0);
    }
}
