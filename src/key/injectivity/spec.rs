//! What a key is to be made of: told to the builder, and known to the model.

use std::{borrow::Cow, sync::LazyLock};

use http::{HeaderName, HeaderValue, request::Parts};

use super::requests::{Choices, Marker, Names, Tenant};
use crate::key::{Body, Key, Normalize, Selection};

#[derive(Debug)]
pub(super) struct Spec {
    pub(super) query: Parameters,
    /// Each with the number of its normal form.
    pub(super) headers: Vec<(&'static str, Option<usize>)>,
    pub(super) cookies: Vec<&'static str>,
    pub(super) tenant: Wanted,
    pub(super) names: Wanted,
    pub(super) marker: Wanted,
    /// A closure that finds the first line of `x-part`.
    pub(super) part: Wanted,
    pub(super) ignore_authority: bool,
    pub(super) ignore_forwarded: bool,
    /// Whether responses decide.
    pub(super) keys_scheme: bool,
    /// What is said of requests that do not tell their scheme.
    pub(super) scheme: Option<&'static str>,
    pub(super) seal: Option<Sealed>,
    pub(super) body: Option<Content>,
}

#[derive(Debug)]
pub(super) enum Parameters {
    All,
    Only(Vec<&'static str>),
    Except(Vec<&'static str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    No,
    Required,
    Optional,
}

#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) query: bool,
    pub(super) let_through: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Raw,
    #[cfg(feature = "json")]
    Json,
    Grpc,
}

const CONTENTS: &[Content] = &[
    Content::Raw,
    Content::Grpc,
    #[cfg(feature = "json")]
    Content::Json,
    #[cfg(feature = "json")]
    Content::Json,
];

const PARAMETERS: [&str; 8] = ["a", "b", "a*", "utm_*", "a b", "", "*", "a[x]"];
const HEADERS: [&str; 8] = [
    "accept-encoding",
    "accept-language",
    "x-device",
    "content-type",
    "host",
    "cookie",
    "forwarded",
    "traceparent",
];
const COOKIES: [&str; 3] = ["a", "b", "c"];
const MAX_BODY: usize = 1 << 20;

static NORMAL_FORMS: LazyLock<[Normalize; 5]> = LazyLock::new(|| {
    [
        Normalize::codings(["br", "gzip"]).expect("tokens"),
        Normalize::languages(["en", "de-AT", "de"]).expect("tokens"),
        Normalize::case_and_space(),
        // Absent, unless it is repeated.
        Normalize::with(|lines| lines.iter().nth(1).cloned()),
        Normalize::with(|lines| lines.iter().count().checked_sub(1).map(HeaderValue::from)),
    ]
});

impl Wanted {
    /// Whether a request should have it: one that lacks what is required is rare.
    pub(super) fn has(self, choices: &mut Choices<'_>) -> bool {
        match self {
            Self::Required => !choices.one_in(16),
            _ => choices.one_in(2),
        }
    }

    fn any(choices: &mut Choices<'_>) -> Self {
        match choices.below(8) {
            0..4 => Self::No,
            4..7 => Self::Optional,
            _ => Self::Required,
        }
    }
}

impl Spec {
    pub(super) fn any(choices: &mut Choices<'_>) -> Self {
        let names = |choices: &mut Choices<'_>| {
            let count = choices.below(4);
            (0..count).map(|_| choices.of(&PARAMETERS)).collect()
        };
        let header = |choices: &mut Choices<'_>| {
            let form = choices.below(2 * NORMAL_FORMS.len());
            let name = choices.of(&HEADERS);
            (name, Some(form).filter(|form| *form < NORMAL_FORMS.len()))
        };
        let (headers, cookies) = (choices.below(4), choices.below(3));
        let sealed = |choices: &mut Choices<'_>| Sealed {
            query: !choices.one_in(3),
            let_through: choices.of(&[None, None, None, Some("user-agent"), Some("cookie")]),
        };
        Self {
            query: match choices.below(5) {
                0 => Parameters::All,
                1 | 2 => Parameters::Only(names(choices)),
                _ => Parameters::Except(names(choices)),
            },
            headers: (0..headers).map(|_| header(choices)).collect(),
            cookies: (0..cookies).map(|_| choices.of(&COOKIES)).collect(),
            tenant: Wanted::any(choices),
            names: Wanted::any(choices),
            marker: Wanted::any(choices),
            part: Wanted::any(choices),
            ignore_authority: choices.one_in(4),
            ignore_forwarded: choices.one_in(8),
            keys_scheme: choices.one_in(4),
            scheme: choices.of(&[None, None, Some("http"), Some("https")]),
            seal: choices.one_in(2).then(|| sealed(choices)),
            body: choices.one_in(3).then(|| choices.of(CONTENTS)),
        }
    }

    /// The scheme of a request that does not tell it. `None` if it may be either.
    pub(super) fn assumed_scheme(&self) -> Option<&'static str> {
        self.scheme.or(self.keys_scheme.then_some("http"))
    }

    /// As an application would say it.
    pub(super) fn build(&self) -> (Selection, Option<Body>) {
        let (mut selection, body) = self.chosen_parts();
        let scheme = self.scheme.map(|scheme| scheme.parse().expect("a scheme"));
        selection.set_scheme(scheme, self.keys_scheme);
        (selection, body)
    }

    fn chosen_parts(&self) -> (Selection, Option<Body>) {
        let Some(content) = self.body else {
            return (self.chosen(Key::new()).into_parts().0, None);
        };
        let key = match content {
            Content::Raw => Key::new().body(MAX_BODY),
            #[cfg(feature = "json")]
            Content::Json => Key::new().json_body(MAX_BODY),
            Content::Grpc => Key::grpc(MAX_BODY).all_methods(),
        };
        let (selection, body) = self.chosen(key).into_parts();
        (selection, Some(body))
    }

    fn chosen<B>(&self, mut key: Key<B>) -> Key<B> {
        key = match &self.query {
            Parameters::All => key,
            Parameters::Only(names) => key.query(names.iter().copied().map(Cow::from)),
            Parameters::Except(names) => key.query_except(names.iter().copied().map(Cow::from)),
        };
        for (name, form) in &self.headers {
            let name = HeaderName::from_static(name);
            key = match form {
                Some(form) => key.header_as(name, NORMAL_FORMS[*form].clone()),
                None => key.header(name),
            };
        }
        for name in &self.cookies {
            key = key.cookie(*name);
        }
        if self.ignore_authority {
            key = key.ignore_authority();
        }
        if self.ignore_forwarded {
            key = key.ignore_forwarded();
        }
        if let Some(seal) = &self.seal {
            key = if seal.query {
                key.seal_query()
            } else {
                key.seal()
            };
            if let Some(name) = seal.let_through {
                key = key.let_through(HeaderName::from_static(name));
            }
        }
        self.found(key)
    }

    fn found<B>(&self, mut key: Key<B>) -> Key<B> {
        match self.tenant {
            Wanted::No => {}
            Wanted::Required => key = key.extension::<Tenant>(),
            Wanted::Optional => key = key.optional_extension::<Tenant>(),
        }
        match self.names {
            Wanted::No => {}
            Wanted::Required => key = key.extension::<Names>(),
            Wanted::Optional => key = key.optional_extension::<Names>(),
        }
        match self.marker {
            Wanted::No => {}
            Wanted::Required => key = key.extension::<Marker>(),
            Wanted::Optional => key = key.optional_extension::<Marker>(),
        }
        let part = |parts: &Parts| {
            let line = parts.headers.get("x-part");
            line.map(|line| line.as_bytes().to_vec())
        };
        match self.part {
            Wanted::No => key,
            Wanted::Required => key.part("part", part),
            Wanted::Optional => key.part("part", move |parts| Some(part(parts))),
        }
    }

    /// The headers that the key names, each once: those that a key with a body names by itself, too.
    pub(super) fn header_names(&self) -> Vec<&'static str> {
        let of_the_body: &[&str] = match self.body {
            None => &[],
            Some(Content::Grpc) => &[
                "content-type",
                "content-encoding",
                "content-language",
                "grpc-encoding",
                "grpc-accept-encoding",
            ],
            Some(_) => &["content-type", "content-encoding", "content-language"],
        };
        let mut names: Vec<_> = self.headers.iter().map(|(name, _)| *name).collect();
        names.extend(of_the_body);
        names.sort_unstable();
        names.dedup();
        names
    }
}
