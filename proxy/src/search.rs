//! Searches, as Elasticsearch and OpenSearch have them: asked by POST, and answered by what is in the body.
//!
//! `_search`, `_msearch` and `_count` are cached, by GET and by POST, and nothing else is. An answer bears the tags of the indices that
//! its path names; a write goes through at once, and purges those of the index that *its* path names, before its own answer is
//! given. What this cannot see:
//!
//! * An alias is another name. Purge its tag, `index:ALIAS`, or write through it.
//! * The lines of `/{index}/_bulk` may name other indices, unless `rest.action.multi.allow_explicit_index` is `false`. A `/_bulk` purges
//!   everything.
//! * A task that goes on after it was answered (`wait_for_completion=false`) is over when nobody tells.
//!
//! A response of those shards alone that have answered in time has status 200 too. It is not stored, nor is one that cannot be read
//! (another format than JSON, or compressed).
//!
//! That is why the lifetime should be short.

use std::{panic, time::Duration};

use http::{HeaderName, Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;
use serde_json::Value;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    BodyCache, BuildError, CacheHandle, CacheLayerBuilder, Key, Tag, TagFamily, Tags,
};

use crate::{
    answers::boxed,
    server::{Body, note},
    upstream::{Answer, Upstream, UpstreamError},
};

/// A longer search is asked each time.
const MAX_SEARCH_BYTES: usize = 256 << 10;

/// Identifies a request in the logs of Elasticsearch, and changes nothing of what is found.
const OPAQUE_ID: HeaderName = HeaderName::from_static("x-opaque-id");

/// What shows an index.
pub(crate) const INDEX: TagFamily<str> = TagFamily::new("index");
/// What may show any index: any write purges it.
const ANY_INDEX: Tag = Tag::new("any-index");
/// Every search: a write of which nobody knows where it goes purges it.
const SEARCHES: Tag = Tag::new("searches");
/// All that is stored of a URL, whatever the body was.
const URL: TagFamily<str> = TagFamily::new("url");

/// Answers searches from the cache, and lets everything else through.
#[derive(Clone)]
pub(crate) struct Searches {
    cached: BodyCache<Upstream>,
    upstream: Upstream,
    handle: CacheHandle,
    /// For how long a search may not see what was written.
    lag: Duration,
}

impl Searches {
    pub(crate) fn new(
        builder: CacheLayerBuilder,
        key: Key,
        upstream: Upstream,
        handle: &CacheHandle,
        lag: Duration,
    ) -> Result<Self, BuildError> {
        // The format of the answer is chosen by `Accept`, and no `Vary` says so. NDJSON is in the key byte for byte.
        let key = key.header(header::ACCEPT);
        let key = key.json_body(MAX_SEARCH_BYTES).only_if(is_repeatable);
        let layer = builder
            .name("searches")
            .key(key)
            .methods([Method::GET, Method::POST])?
            .tag_requests(|parts| shown(parts).unwrap_or_default())
            .store_if(|_, body| is_complete(body))
            .max_tag_bytes(8 << 10)
            // A search by POST changes nothing, and a write purges more than its own URL.
            .invalidation(false)
            .build();
        Ok(Self {
            cached: layer.layer(upstream.for_searches()),
            upstream,
            handle: handle.clone(),
            lag,
        })
    }

    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, UpstreamError> {
        let (parts, body) = request.into_parts();
        let is_search = shown(&parts).is_some();
        let written = written(&parts);
        let opaque_id = parts.headers.get(&OPAQUE_ID).cloned();
        let request = Request::from_parts(parts, body);
        if is_search {
            let mut answer = self.cached.clone().oneshot(request).await?;
            // The service repeats the id, and a stored answer has that of another request.
            match opaque_id {
                Some(id) => drop(answer.headers_mut().insert(OPAQUE_ID, id)),
                None => drop(answer.headers_mut().remove(OPAQUE_ID)),
            }
            return Ok(answer.map(boxed));
        }
        let answer = match written {
            None => self.upstream.clone().oneshot(request).await?,
            Some(tags) => self.write(request, tags).await?,
        };
        Ok(answer.map(boxed))
    }

    /// Lets a write through. Before its answer goes to the client, what shows what it has changed is purged, and for as long as a search may
    /// lag behind it nothing of that is stored. It goes on if its client leaves. What was refused has changed nothing.
    async fn write(
        &self,
        request: Request<Incoming>,
        tags: Tags,
    ) -> Result<Response<Answer>, UpstreamError> {
        let Self {
            upstream,
            handle,
            lag,
            ..
        } = self.clone();
        let write = tokio::spawn(async move {
            let patience = upstream.patience();
            let answer = upstream.oneshot(request).await;
            if answer
                .as_ref()
                .is_ok_and(|answer| is_refused(answer.status()))
            {
                return answer;
            }
            // What has failed here may be done there, and later.
            let lag = if answer.is_ok() { lag } else { lag + patience };
            if let Err(error) = handle.purge(tags).hold_off(lag).await {
                note(format_args!("a write could not purge: {error}"));
            }
            answer
        });
        match write.await {
            Ok(answer) => answer,
            Err(end) => match end.try_into_panic() {
                Ok(panic) => panic::resume_unwind(panic),
                Err(_) => Err(UpstreamError::Silent),
            },
        }
    }
}

/// Who is not let in, or asks for what cannot be, has not changed anything; all else may have, as far as it went.
fn is_refused(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
    )
}

/// The tags of what a request shows; nothing if it is no search.
fn shown(parts: &request::Parts) -> Option<Tags> {
    if ![Method::GET, Method::POST].contains(&parts.method) {
        return None;
    }
    let segments = segments(parts);
    let (indices, kind) = match segments[..] {
        [kind] => (None, kind),
        [indices, kind] => (names(indices), kind),
        [indices, mapping, kind] if !mapping.starts_with('_') => (names(indices), kind),
        _ => return None,
    };
    let indices = match kind {
        "_search" | "_count" => indices,
        // Its lines may name others.
        "_msearch" => None,
        _ => return None,
    };
    let tags = indices.unwrap_or_else(|| vec![ANY_INDEX]);
    Some(tags.into_iter().chain([SEARCHES, url_tag(parts)]).collect())
}

/// The tags of what a request changes; nothing if it only asks.
fn written(parts: &request::Parts) -> Option<Tags> {
    const ASKING: [&str; 22] = [
        "_analyze",
        "_async_search",
        "_count",
        "_eql",
        "_explain",
        "_field_caps",
        "_knn_search",
        "_mget",
        "_msearch",
        "_mtermvectors",
        "_pit",
        "_query",
        "_rank_eval",
        "_render",
        "_search",
        "_search_shards",
        "_sql",
        "_terms_enum",
        "_termvectors",
        "_validate",
        "_nodes",
        "_tasks",
    ];
    const CHANGING_ONE: [&str; 9] = [
        "_bulk",
        "_create",
        "_delete_by_query",
        "_doc",
        "_flush",
        "_mapping",
        "_refresh",
        "_update",
        "_update_by_query",
    ];
    /// What a DELETE ends without changing what is found.
    const ENDING: [&str; 5] = ["_search", "_pit", "_async_search", "_eql", "_sql"];
    let segments = segments(parts);
    // These are asked for by GET too, and make seen what was written before.
    let is_seen_from_now_on = matches!(segments[..], [.., "_refresh" | "_flush"]);
    if parts.method.is_safe() && !is_seen_from_now_on {
        return None;
    }
    let asks = |kind: &str| {
        let ends = parts.method == Method::DELETE && ENDING.contains(&kind);
        ends || (parts.method == Method::POST && ASKING.contains(&kind))
    };
    let changed = match segments[..] {
        // What is encoded may be the name of anything.
        _ if segments.iter().skip(1).any(|segment| segment.contains('%')) => None,
        [kind, ..] | [_, kind, ..] if asks(kind) => return None,
        [indices, kind, ..] if CHANGING_ONE.contains(&kind) || !kind.starts_with('_') => {
            names(indices)
        }
        // Whole indices, aliases, templates, many at once: nobody knows what a search says then.
        _ => None,
    };
    let changed = changed.map(|indices| indices.into_iter().chain([ANY_INDEX]).collect());
    Some(changed.unwrap_or_else(|| SEARCHES.into()))
}

fn segments(parts: &request::Parts) -> Vec<&str> {
    let path = parts.uri.path();
    path.strip_prefix('/').unwrap_or(path).split('/').collect()
}

/// The tags of the indices of this list, if each of them is named as it is: no pattern, no date, nothing encoded.
fn names(list: &str) -> Option<Vec<Tag>> {
    let is_plain = |name: &&str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        let begins = name.bytes().next().is_some_and(|b| b != b'-' && b != b'_');
        begins && ![".", ".."].contains(name) && name.bytes().all(plain)
    };
    let tag = |name| Some(INDEX.tag(Some(name).filter(is_plain)?));
    list.split(',').map(tag).collect()
}

/// Whether a search asks and does nothing else, and of no other index than its path says. Where that cannot be read, it may.
fn is_repeatable(parts: &request::Parts, body: &[u8]) -> bool {
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let mut parameters = form_urlencoded::parse(query);
    let scrolls_or_hides = parameters.any(|(name, value)| {
        ["scroll", "source"].contains(&&*name) || (name == "filter_path" && !keeps_outcome(&value))
    });
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| mentions(kind.as_bytes(), "json"));
    let is_text = is_json && !parts.headers.contains_key(header::CONTENT_ENCODING);
    // The lines of many searches name their indices, and bear the tag of any.
    let is_many = parts.uri.path().ends_with("_msearch");
    // `index`, `_index`, `target_index`, and whatever else ends so.
    let names_others = !is_many && mentions(body, "index\"");
    // What can be spelled in another way than it is looked for.
    let is_plain =
        std::str::from_utf8(body).is_ok_and(|text| !text.contains('\0')) && !mentions(body, "\\u");
    shown(parts).is_some()
        && !scrolls_or_hides
        && (is_text || body.is_empty())
        && is_plain
        && !mentions(body, "\"pit\"")
        && !names_others
}

/// Returns whether all clusters and all shards have answered in time, for each search in the response.
fn is_complete(body: &[u8]) -> bool {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return false;
    };
    let searches = answer["responses"].as_array();
    let searches = searches.map_or_else(|| std::slice::from_ref(&answer), Vec::as_slice);
    searches.iter().all(|search| {
        let count = |of: &str, name: &str| search[of][name].as_u64();
        // A shard that is not allocated is counted neither as successful nor as failed.
        let all_shards = count("_shards", "successful") >= count("_shards", "total");
        let failed_shards = count("_shards", "failed").unwrap_or(0);
        let missing = ["skipped", "partial", "failed", "running"];
        let mut missing = missing.iter().filter_map(|name| count("_clusters", name));
        search.get("error").is_none()
            && search["timed_out"] != true
            && all_shards
            && failed_shards == 0
            && missing.all(|clusters| clusters == 0)
    })
}

/// Returns whether a `filter_path` keeps the members that tell whether the response is complete.
fn keeps_outcome(filter: &str) -> bool {
    let kept: Vec<_> = filter.split(',').collect();
    ["timed_out", "_shards", "_clusters"]
        .iter()
        .all(|name| kept.contains(name))
}

fn mentions(text: &[u8], word: &str) -> bool {
    let mut parts = text.windows(word.len());
    parts.any(|part| part == word.as_bytes())
}

/// What everything bears that is stored of a URL.
pub(crate) fn url_tag(parts: &request::Parts) -> Tag {
    let host = parts.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    URL.tag(format!("{host}{}", parts.uri))
}
