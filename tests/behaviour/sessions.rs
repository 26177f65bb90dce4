//! Users, sessions and cookies, with real session layers: what `docs/users.md` says.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{
    Extension, Router,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
    routing::{get, post},
};
use http::{Method, header::ACCEPT_LANGUAGE};
use tower_cookies::{Cookie, CookieManagerLayer, Cookies};
use tower_response_cache::{CacheLayer, Key, key::Normalize};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

use crate::served::{Served, Visitor};

static NEXT: AtomicUsize = AtomicUsize::new(0);

fn unique(what: &str) -> String {
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::SeqCst))
}

/// A page with a CSRF token, which begins a session for visitors who have none.
async fn form_with_session(session: Session) -> String {
    if let Some(token) = session.get::<String>("csrf").await.unwrap() {
        return token;
    }
    let token = unique("token");
    session.insert("csrf", &token).await.unwrap();
    token
}

/// The same, with the token in a cookie.
async fn form_with_cookie(cookies: Cookies) -> String {
    if let Some(cookie) = cookies.get("csrf") {
        return cookie.value().to_owned();
    }
    let token = unique("token");
    cookies.add(Cookie::new("csrf", token.clone()));
    token
}

async fn login(session: Session) {
    session.insert("user", unique("user")).await.unwrap();
}

/// A page that greets its user, and begins no session.
async fn home(session: Session) -> String {
    let user = session.get::<String>("user").await.unwrap();
    format!(
        "hello {}, render {}",
        user.as_deref().unwrap_or("you"),
        unique("render")
    )
}

async fn about() -> String {
    unique("about")
}

fn sessions() -> SessionManagerLayer<MemoryStore> {
    SessionManagerLayer::new(MemoryStore::default()).with_secure(false)
}

fn cache(key: Key) -> CacheLayer {
    CacheLayer::builder().key(key).build()
}

fn pages() -> Router {
    Router::new()
        .route("/form", get(form_with_session))
        .route("/home", get(home))
        .route("/about", get(about))
        .route("/login", post(login))
}

/// Everybody asks for the form twice: each gets a token of their own, and keeps it.
async fn each_visitor_has_a_token_of_their_own(served: &Served, keeps: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let mut visitor = served.visitor();
        let first = visitor.get("/form").await;
        assert!(visitor.cookie(keeps).is_some(), "{first:?}");
        assert!(!first.is_hit(), "{first:?}");
        let second = visitor.get("/form").await;
        assert_eq!(first.text, second.text);
        reasons.push(first.cache_status().to_owned());
        tokens.push(first.text);
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "a token was shared");
    reasons
}

async fn logged_in(served: &Served) -> Visitor {
    let mut visitor = served.visitor();
    let answer = visitor.send(Method::POST, "/login", &[]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(visitor.cookie("id").is_some());
    visitor
}

// Invariants 1, 67.
#[tokio::test]
async fn with_sessions_outside_the_cache_no_token_is_shared_whatever_the_key() {
    let keys = [
        Key::new(),
        Key::new().ignore_cookies(),
        Key::new().bypass_if_cookie("id"),
        Key::new().seal(),
        Key::new()
            .bypass_if_cookie("id")
            .hide_extension::<Cookies>()
            .allow_extension::<u8>(),
    ];
    for key in keys {
        let text = format!("{key:?}");
        let served = Served::start(pages().layer(cache(key)).layer(sessions())).await;
        let statuses = each_visitor_has_a_token_of_their_own(&served, "id").await;
        for status in statuses {
            let is_named =
                status.ends_with("detail=session") || status.ends_with("detail=unknown-extension");
            assert!(is_named, "{status} with {text}");
        }
    }
}

// Invariants 1, 67.
#[tokio::test]
async fn with_cookies_outside_the_cache_no_token_is_shared_whatever_the_key() {
    for key in [
        Key::new(),
        Key::new().bypass_if_cookie("csrf"),
        Key::new().seal(),
    ] {
        let app = Router::new().route("/form", get(form_with_cookie));
        let app = app.layer(cache(key)).layer(CookieManagerLayer::new());
        let served = Served::start(app).await;
        each_visitor_has_a_token_of_their_own(&served, "csrf").await;
    }
}

// Invariants 1, 67.
#[tokio::test]
async fn with_sessions_inside_the_cache_no_token_is_shared_and_other_pages_are() {
    let key = Key::new().bypass_if_cookie("id");
    let served = Served::start(pages().layer(sessions()).layer(cache(key))).await;
    let statuses = each_visitor_has_a_token_of_their_own(&served, "id").await;
    assert!(statuses[0].ends_with("detail=set-cookie"), "{statuses:?}");

    let first = served.visitor().get("/home").await;
    assert!(served.visitor().get("/home").await.is_hit());
    // Analytics and consent do not matter.
    let mut tracked = served
        .visitor()
        .with_cookie("_ga", "GA1.2.3")
        .with_cookie("consent", "yes");
    let hit = tracked.get("/home").await;
    assert!(hit.is_hit(), "{hit:?}");
    assert_eq!(hit.text, first.text);

    let (mut ann, mut bob) = (logged_in(&served).await, logged_in(&served).await);
    let (to_ann, to_bob) = (ann.get("/home").await, bob.get("/home").await);
    assert!(to_ann.text.starts_with("hello user-"), "{to_ann:?}");
    assert!(to_ann.bypassed_for("cookie") && to_bob.bypassed_for("cookie"));
    assert_ne!(to_ann.text.split(',').next(), to_bob.text.split(',').next());
    let anonymous = served.visitor().get("/home").await;
    assert_eq!(anonymous.text, first.text);
}

// Invariants 1, 67.
#[tokio::test]
async fn with_cookies_inside_the_cache_no_token_is_shared() {
    let app = Router::new().route("/form", get(form_with_cookie));
    let key = Key::new().bypass_if_cookie("csrf");
    let app = app.layer(CookieManagerLayer::new()).layer(cache(key));
    let served = Served::start(app).await;
    let statuses = each_visitor_has_a_token_of_their_own(&served, "csrf").await;
    assert!(statuses[0].ends_with("detail=set-cookie"), "{statuses:?}");
}

// Invariant 2.
#[tokio::test]
async fn with_sessions_outside_pages_that_hide_them_are_shared_by_visitors_without_a_session() {
    let key = Key::new()
        .bypass_if_cookie("id")
        .hide_extension::<Session>()
        .hide_extension::<Cookies>();
    let served = Served::start(pages().layer(cache(key)).layer(sessions())).await;
    let first = served.visitor().get("/about").await;
    assert_eq!(first.status, 200);
    let tracked = served.visitor().with_cookie("_ga", "1").get("/about").await;
    assert!(tracked.is_hit(), "{tracked:?}");
    // A handler that needs the session fails: it answers nobody with what belongs to somebody else.
    for _ in 0..2 {
        assert_eq!(served.visitor().get("/form").await.status, 500);
    }
    let mut ann = logged_in(&served).await;
    let to_ann = ann.get("/home").await;
    assert!(to_ann.text.starts_with("hello user-"), "{to_ann:?}");
    assert!(to_ann.bypassed_for("cookie"), "{to_ann:?}");
}

#[tokio::test]
async fn with_sessions_outside_the_application_may_vouch_that_no_page_begins_one() {
    let key = Key::new()
        .bypass_if_cookie("id")
        .allow_extension::<Session>()
        .allow_extension::<Cookies>();
    let served = Served::start(pages().layer(cache(key)).layer(sessions())).await;
    let first = served.visitor().get("/home").await;
    let second = served.visitor().get("/home").await;
    assert!(second.is_hit(), "{second:?}");
    assert_eq!(first.text, second.text);
}

#[derive(Debug, Clone)]
struct Account {
    tenant: u64,
}

/// What an authentication layer outside the cache does: the tenant of a host.
async fn find_account(mut request: Request, next: Next) -> Response {
    let tenant = request.headers().get("x-tenant");
    let tenant = tenant.and_then(|tenant| tenant.to_str().ok()?.parse().ok());
    if let Some(tenant) = tenant {
        request.extensions_mut().insert(Account { tenant });
    }
    next.run(request).await
}

// Invariant 2.
#[tokio::test]
async fn tenants_and_languages_have_pages_of_their_own() {
    let page = |account: Option<Extension<Account>>, headers: http::HeaderMap| async move {
        let tenant = account.map_or(0, |Extension(account)| account.tenant);
        let language = headers
            .get(ACCEPT_LANGUAGE)
            .map(|value| value.to_str().unwrap().to_owned());
        format!(
            "{tenant} {} {}",
            language.unwrap_or_default(),
            unique("render")
        )
    };
    let key = Key::new()
        .extension_with::<Account>("tenant", |account| account.tenant)
        .header_as(ACCEPT_LANGUAGE, Normalize::languages(["en", "de"]).unwrap())
        .seal();
    let app = Router::new().route("/", get(page));
    let served = Served::start(app.layer(cache(key)).layer(from_fn(find_account))).await;
    let mut visitor = served.visitor();
    let mut texts = Vec::new();
    for tenant in ["1", "2"] {
        for languages in ["de-AT,de;q=0.9", "en", "de,en;q=0.1"] {
            let headers = [("x-tenant", tenant), ("accept-language", languages)];
            let page = visitor.send(Method::GET, "/", &headers).await;
            assert!(page.text.starts_with(tenant), "{page:?}");
            assert!(page.text.contains(&languages[..2]), "{page:?}");
            texts.push(page.text);
        }
    }
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 4, "{texts:?}");
    let stranger = visitor.get("/").await;
    assert!(stranger.bypassed_for("key-part"), "{stranger:?}");
}

#[tokio::test]
async fn a_cookie_that_bypasses_is_found_however_it_is_written() {
    let key = Key::new().bypass_if_cookie("id").bypass_if_cookie("wp_*");
    let app = Router::new().route("/about", get(about));
    let served = Served::start(app.layer(cache(key))).await;
    served.visitor().get("/about").await;
    let mut visitor = served.visitor();
    for line in [
        "id=1",
        "a=1; id=2",
        "id",
        "a=1;id=2",
        "i%64=1",
        "a=\"; id=1\"",
        "a=1, id=2",
        "wp_user=1",
        "a=\u{e9}; id=1",
    ] {
        let page = visitor
            .send(Method::GET, "/about", &[("cookie", line)])
            .await;
        assert!(page.bypassed_for("cookie"), "{line}: {page:?}");
    }
    for line in ["a=1", "idx=1", "ID=1", "xid=1", "a=id", "wp=1"] {
        let page = visitor
            .send(Method::GET, "/about", &[("cookie", line)])
            .await;
        assert!(page.is_hit(), "{line}: {page:?}");
    }
}
