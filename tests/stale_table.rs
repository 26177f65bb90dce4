//! docs/stale.md says in a table what is served, stored and asked in each case: each is played here, and compared.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    future::pending,
    panic::resume_unwind,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio::{task::JoinHandle, time::advance};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{CacheLayer, Reason, ResponseBody, Standing, Tag, Tags};

use common::{Answer, Body, Gate, empty, get, ok, read, settle, status, with, with_headers};

/// How old the stored response is in each state.
const STATES: [(&str, u64); 4] = [("fresh", 10), ("swr", 65), ("sie", 200), ("beyond", 1000)];
const INNER: [&str; 7] = ["ok", "304", "404", "500", "Err", "panic", "hangs"];
const FAILURES: [&str; 4] = ["500", "Err", "panic", "hangs"];
const MEANWHILE: [&str; 4] = ["nothing", "soft purge", "hard purge", "purge during it"];

const TTL: Duration = Duration::from_secs(60);
const WHILE_REVALIDATE: Duration = Duration::from_secs(30);
const IF_ERROR: Duration = Duration::from_secs(600);
const WAIT: Duration = Duration::from_secs(1);
const FILL: Duration = Duration::from_secs(2);
/// The inner service is well, and nothing is purged.
const WELL: Case = ["", "ok", ""];
const PAGE: Tag = Tag::new("page");

type Case = [&'static str; 3];
/// What is served, how many calls there were, what is stored, and what is served next, with how many calls.
type Row = [String; 5];

fn cases() -> impl Iterator<Item = Case> {
    let count = STATES.len() * INNER.len() * MEANWHILE.len();
    (0..count).map(|n| [STATES[n / 28].0, INNER[n / 4 % 7], MEANWHILE[n % 4]])
}

fn written(case: Case, row: &Row) -> String {
    format!("| {} | {} |", case.join(" | "), row.join(" | "))
}

/// The table of the page, its rows taken apart into the cases for which they stand.
fn table() -> BTreeMap<Case, Row> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stale.md");
    let page = fs::read_to_string(page).expect("the page");
    let names = |cell: &str, word| cell.split(", ").any(|named| named == word);
    let mut table = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [states, inners, whiles, row @ ..] = &cells[..] else {
            continue;
        };
        let is_meant = |case: &Case| {
            names(states, case[0]) && names(inners, case[1]) && names(whiles, case[2])
        };
        for case in cases().filter(is_meant) {
            let row = <[&str; 5]>::try_from(row).expect(line);
            let twice = table.insert(case, row.map(str::to_owned));
            assert!(twice.is_none(), "{case:?} stands there twice");
        }
    }
    let missing: Vec<_> = cases().filter(|case| !table.contains_key(case)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    table
}

/// What the inner service does.
#[derive(Debug)]
struct Script {
    /// What it does next, and where it stops before.
    play: Mutex<(&'static str, Option<Gate>)>,
    calls: AtomicUsize,
    /// What stands in the first response's `Cache-Control`.
    says: &'static str,
}

impl Script {
    async fn answer(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, &'static str> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (inner, gate) = self.play.lock().expect("no panic").clone();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let asked_whether_changed = request.headers().contains_key("if-none-match");
        match inner {
            "old" => Ok(with(page("old"), "cache-control", self.says)),
            "304" if asked_whether_changed => Ok(status(StatusCode::NOT_MODIFIED).map(|_| empty())),
            "ok" | "304" => Ok(page("new")),
            "404" => Ok(status(StatusCode::NOT_FOUND)),
            "500" => Ok(status(StatusCode::INTERNAL_SERVER_ERROR)),
            "Err" => Err("it cannot be reached"),
            "panic" => resume_unwind(Box::new("it panics")),
            "hangs" => pending().await,
            other => unreachable!("{other}"),
        }
    }
}

fn page(version: &'static str) -> Response<Body> {
    let etag = format!("\"{version}\"");
    let mut response = with_headers(ok(version), &[("etag", &etag)]);
    let tags = Tags::from(PAGE).with(version);
    response.extensions_mut().insert(tags);
    response
}

type Asked = JoinHandle<Result<Answer, &'static str>>;
type Cache = BoxCloneService<Request<Body>, Response<ResponseBody<Body>>, &'static str>;

/// A layer with one page stored, and the inner service behind it.
struct World {
    script: Arc<Script>,
    layer: CacheLayer,
    cache: Cache,
    answers: u64,
}

impl World {
    fn new(says: &'static str) -> Self {
        let script = Arc::new(Script {
            play: Mutex::new(("old", None)),
            calls: AtomicUsize::new(0),
            says,
        });
        let layer = CacheLayer::builder()
            .ttl(TTL)
            .stale_while_revalidate(WHILE_REVALIDATE)
            .stale_if_error(IF_ERROR)
            .keep_for_revalidation(IF_ERROR * 10)
            .wait_timeout(WAIT)
            .fill_timeout(FILL)
            .build();
        let inner = script.clone();
        let inner = service_fn(move |request| inner.clone().answer(request));
        Self {
            script,
            cache: BoxCloneService::new(layer.layer(inner)),
            layer,
            answers: 0,
        }
    }

    async fn purge(&self, soft: bool) {
        let purge = self.layer.handle().purge(PAGE);
        let _ = if soft { purge.soft() } else { purge }
            .await
            .expect("a purge");
    }

    /// It has looked for what is stored when this returns.
    async fn send(&mut self) -> Asked {
        let ready = self.cache.ready().await.expect("it is always ready");
        let answer = ready.call(get("/"));
        tokio::spawn(async { Ok(read(answer.await?).await) })
    }

    /// What a request was answered, in the words of the table, and why.
    async fn served(&mut self, request: Asked, inner: &str) -> (String, Option<Reason>) {
        let passed_on = |what: &str| {
            assert_eq!(what, inner);
            ("passed on".to_owned(), None)
        };
        if !request.is_finished() {
            request.abort();
            return passed_on("hangs");
        }
        let answer = match request.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return passed_on("Err"),
            Err(error) => {
                assert!(error.is_panic());
                return passed_on("panic");
            }
        };
        self.answers += 1;
        let (cache, text) = (answer.cache(), answer.text());
        let served = match answer.parts.status {
            StatusCode::OK if cache.is_stale() => format!("{text}, stale"),
            StatusCode::OK if cache.is_hit() => format!("{text}, fresh"),
            StatusCode::OK if text == "old" => "old, 304".to_owned(),
            StatusCode::OK => text.to_owned(),
            status => return passed_on(status.as_str()),
        };
        (served, cache.reason())
    }

    /// What is stored, in the words of the table.
    fn stored(&self) -> String {
        let told = self.layer.explain(&get("/").into_parts().0).stored;
        let Some(stored) = told.first() else {
            return "nothing".to_owned();
        };
        let version = stored.tags.last().expect("the version is its second tag");
        match stored.standing {
            Standing::Fresh(_) => version.clone(),
            Standing::StaleWhileRevalidate(_) | Standing::StaleIfError(_) => {
                format!("{version}, stale")
            }
            Standing::Expired => format!("{version}, expired"),
            Standing::Purged => "nothing".to_owned(),
            other => panic!("{other}"),
        }
    }

    fn calls(&self) -> usize {
        self.script.calls.load(Ordering::SeqCst)
    }

    /// Brings what is stored to this age, with a purge if one comes before the request.
    async fn age_and_purge(&mut self, [state, _, meanwhile]: Case) {
        let primed = self.send().await;
        settle().await;
        let primed = primed.await.expect("no panic").expect("an answer");
        assert_eq!(primed.text(), "old");
        self.answers += 1;
        let known = STATES.iter().find(|(name, _)| *name == state);
        advance(Duration::from_secs(known.expect(state).1)).await;
        match meanwhile {
            "soft purge" => {
                self.purge(true).await;
                // A sweep leaves what a 304 can renew.
                settle().await;
            }
            "hard purge" => self.purge(false).await,
            _ => {}
        }
    }

    /// One request while the inner service does this, until nothing more comes of it.
    async fn ask(&mut self, [_, inner, meanwhile]: Case) -> (String, Option<Reason>) {
        let gate = (meanwhile == "purge during it").then(Gate::new);
        *self.script.play.lock().expect("no panic") = (inner, gate.clone());
        let request = self.send().await;
        settle().await;
        if let Some(gate) = gate {
            let is_asked = gate.try_arrival();
            assert!(is_asked || request.is_finished());
            self.purge(false).await;
            gate.open();
            settle().await;
        }
        if inner == "hangs" {
            for timeout in [WAIT, FILL] {
                advance(timeout + Duration::from_millis(500)).await;
                settle().await;
            }
        }
        self.served(request, inner).await
    }
}

/// Plays one case, and tells what came of it.
async fn played(case: Case, says: &'static str) -> Row {
    let mut world = World::new(says);
    world.age_and_purge(case).await;
    let primed = world.calls();
    let (served, why) = world.ask(case).await;
    let (calls, stored) = (world.calls() - primed, world.stored());
    let (next_served, why_next) = world.ask(WELL).await;
    let next_calls = world.calls() - primed - calls;
    let expected = match case[0] {
        "sie" => Reason::StaleIfError,
        _ => Reason::StaleWhileRevalidate,
    };
    for (served, why) in [(&served, why), (&next_served, why_next)] {
        let is_told = served != "old, stale" || why == Some(expected);
        assert!(is_told, "{case:?}: {why:?}");
    }
    // Whatever has failed, it is tried again when the pause is over.
    advance(Duration::from_millis(12_500)).await;
    world.ask(WELL).await;
    let (last, _) = world.ask(WELL).await;
    assert!(last.ends_with(", fresh"), "{case:?}: {last}");
    let stats = world.layer.handle().stats();
    let classified = stats.hits + stats.stale + stats.misses + stats.bypasses;
    assert_eq!(classified, world.answers, "{case:?}: {stats:?}");
    [
        served,
        calls.to_string(),
        stored,
        next_served,
        next_calls.to_string(),
    ]
}

// Invariants 16, 22, 36, 38, 40, 60: what is served, stored and asked is what the page says.
#[tokio::test(start_paused = true)]
async fn every_case_is_as_the_page_about_stale_answers_says() {
    let table = table();
    let mut wrong = 0;
    for case in cases() {
        let row = played(case, "public").await;
        if table[&case] != row {
            wrong += 1;
            println!("{}", written(case, &row));
        }
    }
    assert_eq!(wrong, 0, "rows of docs/stale.md should be as above");
}

// Invariants 16, 22, 36, 38, 40: the page is held to what was promised, whatever the code does.
#[test]
fn no_row_of_the_page_breaks_what_is_promised() {
    for (case @ [state, inner, meanwhile], row) in table() {
        let [served, calls, stored, next_served, next_calls] = row.each_ref().map(String::as_str);
        let is_gone = meanwhile == "hard purge";
        let is_gone_next = is_gone || meanwhile == "purge during it";
        let is_fresh = state == "fresh" && !is_gone && meanwhile != "soft purge";
        let is_failed = FAILURES.contains(&inner);
        let is_new = inner == "ok" || inner == "304" && !is_fresh;
        let has_window = state != "beyond" && !is_fresh && !is_gone_next;
        let holds = [
            // Fresh before its lifetime is over, and later only if a 304 has renewed it.
            (served == "old, fresh") == is_fresh,
            next_served != "old, fresh" || is_fresh || inner == "304",
            // After a hard purge nothing of what was before it.
            !is_gone || !served.starts_with("old"),
            !is_gone_next || !stored.starts_with("old") && !next_served.starts_with("old"),
            meanwhile != "purge during it" || (stored, next_served) == ("nothing", "new"),
            // Beyond the windows nothing stale, and in them no failure.
            state != "beyond" || !served.ends_with("stale") && !next_served.ends_with("stale"),
            !(has_window && is_failed) || [served, stored, next_served] == ["old, stale"; 3],
            !(has_window && is_failed) || next_calls == "0",
            // In the first window, and after a soft purge of what was fresh, nobody waits.
            !has_window || state == "sie" || served == "old, stale",
            // What is stored is what was answered, and never a failure.
            is_new || served != "new" && !stored.starts_with("new"),
            calls == if is_fresh { "0" } else { "1" },
        ];
        let broken = holds.iter().position(|holds| !holds);
        assert_eq!(broken, None, "{}", written(case, &row));
    }
}

// Invariants 16, 40: for what says that it is not to be reused once stale, every window is over when its lifetime is.
#[tokio::test(start_paused = true)]
async fn what_must_be_revalidated_is_beyond_its_windows_as_soon_as_it_is_stale() {
    let table = table();
    for case @ [state, inner, meanwhile] in cases() {
        let row = played(case, "must-revalidate").await;
        let is_fresh = state == "fresh" && meanwhile != "soft purge";
        let state = if is_fresh { state } else { "beyond" };
        assert_eq!(row, table[&[state, inner, meanwhile]], "{case:?}");
    }
}
