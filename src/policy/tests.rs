use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::SizeHint;

use super::*;
use crate::{
    key::{Fragment, Identity, Selection},
    tags::{Tag, scope::Gathered},
};

/// What is decided of a response with these headers, under this policy.
fn judged(policy: &Policy, response: Response<Tags>, identity: Identity) -> Verdict {
    let (mut parts, tags) = response.into_parts();
    parts.extensions.insert(tags);
    policy.judge(&Candidate {
        identity,
        fragment: &Fragment::default(),
        selection: &Selection::default(),
        request_headers: &HeaderMap::new(),
        headers_as_asked: &HeaderMap::new(),
        request_tags: Tags::new(),
        renewed: None,
        response: &parts,
        gathered: Gathered::default(),
        body: &SizeHint::new(),
        received: tokio::time::Instant::now(),
        at: std::time::SystemTime::now(),
        delay: Duration::ZERO,
        replaces_good: false,
        is_post: false,
        is_of_uncached_method: false,
        origin: None,
        uri: &http::Uri::default(),
    })
}

fn with(lines: &[(&'static str, &str)]) -> Response<Tags> {
    let mut response = Response::new(Tags::new());
    for (name, value) in lines {
        response
            .headers_mut()
            .append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    response
}

fn kept(verdict: &Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Keep(reason) => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_plain_200_is_stored_for_the_layers_lifetime() {
    let Verdict::Store(plan) = judged(&Policy::default(), with(&[]), Identity::None) else {
        panic!("not stored");
    };
    assert_eq!(plan.head.ttl, Duration::from_secs(60));
}

#[test]
fn every_other_status_is_not_stored_unless_it_was_chosen() {
    let mut policy = Policy::default();
    for code in (100..600).filter(|code| *code != 200) {
        let mut response = with(&[]);
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        match judged(&policy, response, Identity::None) {
            Verdict::Keep(Reason::Status) if code < 500 => {}
            Verdict::Failed(_) if code >= 500 => {}
            other => panic!("{code}: {other:?}"),
        }
    }
    policy
        .statuses
        .push((StatusCode::NOT_FOUND, Duration::from_secs(5)));
    let mut response = with(&[]);
    *response.status_mut() = StatusCode::NOT_FOUND;
    let Verdict::Store(plan) = judged(&policy, response, Identity::None) else {
        panic!("not stored");
    };
    assert_eq!(plan.head.ttl, Duration::from_secs(5));
}

#[test]
fn what_is_for_one_requester_is_kept_to_it() {
    for (lines, reason) in [
        (&[("set-cookie", "a=b")][..], Reason::SetCookie),
        (&[("cache-control", "no-store")], Reason::NoStore),
        (
            &[("cache-control", "max-age=1"), ("cache-control", "Private")],
            Reason::Private,
        ),
        (&[("cache-control", "no-cache")], Reason::NoCache),
        (&[("cache-control", "no-store;x")], Reason::CacheControl),
        (&[("vary", "*")], Reason::VaryStar),
        (&[("vary", "a b")], Reason::Vary),
        (
            &[("content-type", "Text/Event-Stream; charset=utf-8")],
            Reason::EventStream,
        ),
        (&[("content-length", "1048577")], Reason::TooLarge),
        (
            &[("content-length", "1"), ("content-length", "1")],
            Reason::ContentLength,
        ),
        (&[("content-length", "-1")], Reason::ContentLength),
        (&[("cache-control", "s-maxage=0")], Reason::NoLifetime),
        (
            &[("content-type", "application/grpc"), ("grpc-status", "0")],
            Reason::GrpcStatus,
        ),
        (
            &[("content-type", "application/grpc"), ("grpc-status", "5")],
            Reason::GrpcStatus,
        ),
    ] {
        let verdict = judged(&Policy::default(), with(lines), Identity::None);
        assert_eq!(kept(&verdict), Some(reason), "{lines:?}");
    }
    assert!(matches!(
        judged(
            &Policy::default(),
            with(&[("content-length", "1048576")]),
            Identity::None
        ),
        Verdict::Store(_)
    ));
}

#[test]
fn an_answer_to_credentials_is_shared_only_if_it_says_so() {
    let policy = Policy::default();
    assert_eq!(
        kept(&judged(&policy, with(&[]), Identity::Authorized)),
        Some(Reason::Authorization)
    );
    for permit in ["public", "s-maxage=5", "must-revalidate"] {
        let response = with(&[("cache-control", permit)]);
        assert!(matches!(
            judged(&policy, response, Identity::Authorized),
            Verdict::Store(_)
        ));
    }
}

#[test]
fn a_failure_may_be_shared_unless_it_is_for_one_requester() {
    let failure = |lines| {
        let mut response = with(lines);
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        judged(&Policy::default(), response, Identity::None)
    };
    assert!(matches!(failure(&[]), Verdict::Failed(Some(_))));
    assert!(matches!(
        failure(&[("set-cookie", "a=b")]),
        Verdict::Failed(None)
    ));
    let unavailable = with(&[("content-type", "application/grpc"), ("grpc-status", "14")]);
    assert!(matches!(
        judged(&Policy::default(), unavailable, Identity::None),
        Verdict::Failed(None)
    ));
}

#[test]
fn the_handlers_s_maxage_counts_and_max_age_is_for_browsers() {
    let ttl = |value: &str| match judged(
        &Policy::default(),
        with(&[("cache-control", value)]),
        Identity::None,
    ) {
        Verdict::Store(plan) => plan.head.ttl.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(ttl("max-age=5"), 60);
    assert_eq!(ttl("s-maxage=5"), 5);
    assert_eq!(ttl("max-age=5, s-maxage=600"), 600);
}

#[test]
fn tags_up_to_the_limits_are_recorded_and_beyond_them_nothing_is_stored() {
    let policy = Policy {
        max_tags: 3,
        max_tag_bytes: 4,
        tag_headers: vec![TagHeader::SURROGATE_KEY],
        ..Policy::default()
    };
    let tagged = |tags: &[&'static str], header: &str| {
        let mut response = with(&[("surrogate-key", header)]);
        *response.body_mut() = tags.iter().copied().map(Tag::new).collect();
        judged(&policy, response, Identity::None)
    };
    let Verdict::Store(plan) = tagged(&["a", "b", "a"], " b  cccc ") else {
        panic!("not stored");
    };
    assert_eq!(
        plan.tags.iter().map(|t| &**t).collect::<Vec<_>>(),
        [&b"a"[..], b"b", b"cccc"]
    );
    assert_eq!(
        kept(&tagged(&["a", "b", "c"], "d")),
        Some(Reason::TooManyTags)
    );
    assert_eq!(kept(&tagged(&["abcde"], "")), Some(Reason::TagTooLong));
}

#[test]
fn tag_headers_are_stripped_when_asked() {
    let policy = Policy {
        tag_headers: vec![TagHeader::CACHE_TAG.strip(), TagHeader::SURROGATE_KEY],
        ..Policy::default()
    };
    let Verdict::Store(plan) = judged(
        &policy,
        with(&[("cache-tag", "a,b"), ("surrogate-key", "c")]),
        Identity::None,
    ) else {
        panic!("not stored");
    };
    assert_eq!(plan.tags.len(), 3);
    assert!(plan.head.headers.contains_key("surrogate-key"));
    assert!(!plan.head.headers.contains_key("cache-tag"));
}

#[test]
fn requests_that_the_cache_does_not_answer_are_told_apart() {
    let admitted = |method: &str, header: &str, has_body| {
        let request = Request::builder()
            .method(method)
            .header(header, "x")
            .body(())
            .unwrap();
        admit(&request.into_parts().0, has_body)
    };
    assert_eq!(admitted("GET", "accept", false), Ok(()));
    assert_eq!(admitted("HEAD", "accept", false), Ok(()));
    assert_eq!(admitted("GET", "accept", true), Err(Reason::RequestBody));
    assert_eq!(admitted("GET", "upgrade", false), Err(Reason::Upgrade));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"] {
        assert_eq!(admitted(method, "accept", false), Err(Reason::Method));
    }
    assert_eq!(admitted("CONNECT", "accept", false), Err(Reason::Upgrade));
}
