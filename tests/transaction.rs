//! Around a transaction of a real database, whatever becomes of it: once the guard is gone, nobody who comes gets a stale page.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use common::{
    Answer, BoxError, Gate, Origin, Random, eventually, get, ok, send, settle, until, with, within,
};
use http::StatusCode;
use rusqlite::Connection;
use tokio::{
    sync::OwnedMutexGuard,
    task::{JoinHandle, spawn_blocking},
    time::{advance, sleep, timeout},
};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, Reason, Tag, TagFamily, Tags,
};

const HOUR: Duration = Duration::from_secs(3600);
const PRODUCT: TagFamily<u32> = TagFamily::new("product");

// ---- the database

/// Products, each with a version, in a file of its own that goes with this.
#[derive(Debug)]
struct Database(PathBuf);

impl Database {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-response-cache-{}-{number}", process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let database = Self(folder);
        let connection = database.connect();
        let mode: String = connection
            .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
            .unwrap();
        assert_eq!(mode, "wal", "readers must not wait for the writer");
        let schema =
            "CREATE TABLE product (id INTEGER PRIMARY KEY, version INTEGER CHECK (version > 0));
            WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 500)
            INSERT INTO product SELECT id, 1 FROM ids";
        connection.execute_batch(schema).unwrap();
        database
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(self.0.join("shop.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        // A crash of the machine is not what is tested.
        connection
            .pragma_update(None, "synchronous", "OFF")
            .unwrap();
        connection
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn version(connection: &Connection, id: u32) -> u32 {
    let query = "SELECT version FROM product WHERE id = ?1";
    connection
        .prepare(query)
        .unwrap()
        .query_row([id], |row| row.get(0))
        .unwrap()
}

/// The new version; an error if it is none that the database takes.
fn raise(connection: &Connection, id: u32, by: i32) -> rusqlite::Result<u32> {
    let update = "UPDATE product SET version = version + ?2 WHERE id = ?1 RETURNING version";
    connection.query_row(update, (id, by), |row| row.get(0))
}

/// A transaction that writes. Dropped without a commit, it is rolled back.
struct Transaction {
    connection: OwnedMutexGuard<Connection>,
    is_open: bool,
}

impl Transaction {
    fn raise(&self, id: u32, by: i32) -> rusqlite::Result<u32> {
        raise(&self.connection, id, by)
    }

    fn commit(mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.execute_batch("ROLLBACK").unwrap();
        }
    }
}

// ---- the shop

/// A connection that handlers read through.
type Reader = Arc<Mutex<Connection>>;

/// A database, its pages, and a cache before them.
#[derive(Clone)]
struct Shop {
    cache: Cache<Origin>,
    handle: CacheHandle,
    origin: Origin,
    database: Arc<Database>,
    writer: Arc<tokio::sync::Mutex<Connection>>,
    readers: Arc<[Reader]>,
    /// Where handlers of requests with `x-slow` stop before they read the database, and after it.
    reading: [Gate; 2],
    /// Where writers stop in the transaction, and after it.
    writing: [Gate; 2],
}

/// `/products/7?de` is product 7 in German.
fn product_of(path: &str) -> u32 {
    let id = path.strip_prefix("/products/").unwrap();
    id.parse().unwrap()
}

fn page(id: u32) -> String {
    format!("/products/{id}")
}

impl Shop {
    fn new() -> Self {
        Self::of(CacheLayer::builder())
    }

    fn of(builder: CacheLayerBuilder) -> Self {
        let database = Arc::new(Database::new());
        let connect = || Arc::new(Mutex::new(database.connect()));
        let readers: Arc<[Reader]> = (0..3).map(|_| connect()).collect();
        let reading = [Gate::new(), Gate::new()];
        let origin = Self::handler(readers.clone(), reading.clone());
        let layer = builder.ttl(HOUR).build();
        Self {
            cache: layer.layer(origin.clone()),
            handle: layer.handle(),
            origin,
            writer: Arc::new(tokio::sync::Mutex::new(database.connect())),
            database,
            readers,
            reading,
            writing: [Gate::new(), Gate::new()],
        }
    }

    fn handler(readers: Arc<[Reader]>, [before, after]: [Gate; 2]) -> Origin {
        let turn = AtomicUsize::new(0);
        Origin::later(move |request| {
            let reader = readers[turn.fetch_add(1, Ordering::Relaxed) % readers.len()].clone();
            let (before, after) = (before.clone(), after.clone());
            async move {
                let is_slow = request.headers().contains_key("x-slow");
                let id = product_of(request.uri().path());
                if is_slow {
                    before.pass().await;
                }
                let read = move || version(&reader.lock().unwrap(), id);
                let version = spawn_blocking(read).await.unwrap();
                if is_slow {
                    after.pass().await;
                }
                let mut response = ok(version.to_string());
                let language = request.uri().query().map(|name| Tag::from(name.to_owned()));
                let tags: Tags = language.into_iter().chain([PRODUCT.tag(id)]).collect();
                response.extensions_mut().insert(tags);
                response
            }
        })
    }

    async fn begin(&self) -> Transaction {
        let connection = self.writer.clone().lock_owned().await;
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Transaction {
            connection,
            is_open: true,
        }
    }

    /// What the database says now.
    fn truth(&self, id: u32) -> u32 {
        version(&self.database.connect(), id)
    }

    async fn ask(&self, path: &str) -> Answer {
        send(&self.cache, get(path)).await
    }

    /// What a request shows, and whether it is a hit.
    async fn shown(&self, path: &str) -> (u32, bool) {
        let answer = self.ask(path).await;
        (answer.text().parse().unwrap(), answer.is_hit())
    }

    /// A request whose handler stops at both gates.
    fn ask_slowly(&self, path: &str) -> JoinHandle<Answer> {
        let (cache, request) = (self.cache.clone(), with(get(path), "x-slow", "1"));
        tokio::spawn(async move { send(&cache, request).await })
    }

    /// A request whose handler has read the database, and has not answered.
    async fn ask_and_read(&self, path: &str) -> JoinHandle<Answer> {
        let asked = self.ask_slowly(path);
        self.handler_reads().await;
        asked
    }

    async fn handler_reads(&self) {
        let [before, after] = &self.reading;
        before.arrival().await;
        before.let_one_pass();
        after.arrival().await;
    }

    async fn answered(&self, asked: JoinHandle<Answer>) -> Answer {
        self.reading[1].let_one_pass();
        within(asked).await.unwrap()
    }

    /// From now on a new request is told what the database says, and so is everybody after it, from the store.
    async fn is_up_to_date(&self, path: &str) -> bool {
        let truth = self.truth(product_of(path.split('?').next().unwrap()));
        let (first, second) = (self.ask(path).await, self.ask(path).await);
        assert!(
            second.is_hit(),
            "what comes after the change is stored: {first:?} {second:?}"
        );
        let truth = truth.to_string();
        first.text() == truth && second.text() == truth
    }

    async fn nothing_is_left(&self) {
        eventually(|| {
            let stats = self.handle.stats();
            let left = [stats.flights, stats.waiters, stats.in_flight, stats.fills];
            left == [0; 4] && stats.marks == 0
        })
        .await;
    }
}

// ---- every schedule of a writer and a reader

/// How a writer makes its change known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Guard,
    /// The common mistake: in the transaction, before it is committed.
    PurgeBefore,
    PurgeAfter,
}

/// What becomes of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Committed,
    RolledBack,
    /// The database refuses a change, and `?` returns.
    Refused,
    /// Its task is aborted at an await in the transaction.
    Aborted,
    Panicked,
    /// Its task is aborted at an await after the database's commit.
    AbortedAfterwards,
}

/// The stages of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Before,
    /// The transaction is open.
    Inside,
    /// It has ended, and the writer has not.
    Ended,
    After,
}

use Stage::{After, Before, Ended, Inside};

/// The stages in which a request comes, its handler reads, and its handler answers.
type Reading = [Stage; 3];

impl End {
    /// Where the writer ends inside the transaction, that ends together with it.
    fn stages(self) -> &'static [Stage] {
        match self {
            Self::Committed | Self::RolledBack | Self::AbortedAfterwards => {
                &[Before, Inside, Ended, After]
            }
            Self::Refused | Self::Aborted | Self::Panicked => &[Before, Inside, After],
        }
    }

    fn readings(self) -> Vec<Reading> {
        let mut readings = Vec::new();
        for &born in self.stages() {
            for &read in self.stages().iter().filter(|&&stage| stage >= born) {
                let answers = self.stages().iter().filter(|&&stage| stage >= read);
                readings.extend(answers.map(|&answer| [born, read, answer]));
            }
        }
        readings
    }
}

async fn write(shop: Shop, id: u32, way: Way, end: End) -> Result<(), BoxError> {
    let purge = (way == Way::Guard).then(|| shop.handle.begin_purge(PRODUCT.tag(id)));
    let transaction = shop.begin().await;
    transaction.raise(id, 1)?;
    if way == Way::PurgeBefore {
        let _ = shop.handle.purge(PRODUCT.tag(id)).await?;
    }
    shop.writing[0].pass().await;
    match end {
        End::Panicked => panic!("as it is meant to, inside the transaction"),
        End::Refused => transaction.raise(id, -1000).map(drop)?,
        _ => {}
    }
    if end == End::RolledBack {
        drop(transaction);
        shop.writing[1].pass().await;
        return Err("it was rolled back".into());
    }
    transaction.commit()?;
    shop.writing[1].pass().await;
    if let Some(purge) = purge {
        let _ = purge.commit().await?;
    }
    if way == Way::PurgeAfter {
        let _ = shop.handle.purge(PRODUCT.tag(id)).await?;
    }
    Ok(())
}

/// A writer and a slow request, each led from stage to stage.
struct Schedule {
    shop: Shop,
    id: u32,
    way: Way,
    end: End,
    reading: Reading,
    /// Whether somebody comes after the writer while the slow request is not yet answered, and waits for it.
    is_awaited: bool,
}

impl Schedule {
    /// Whether somebody who came when the writer was done was told what is no more so.
    async fn leaves_a_stale_page(&self) -> bool {
        let (shop, path) = (&self.shop, page(self.id));
        let [born, read, answer] = self.reading;
        let (mut writer, mut asked, mut late) = (None, None, None);
        for &stage in self.end.stages() {
            self.enter(stage, &mut writer).await;
            if stage == After && born < After && answer == After && self.is_awaited {
                let (cache, request) = (shop.cache.clone(), get(&path));
                late = Some(tokio::spawn(async move { send(&cache, request).await }));
                until(|| shop.handle.stats().waiters == 1).await;
            }
            if stage == born {
                asked = Some(shop.ask_slowly(&path));
                shop.reading[0].arrival().await;
            }
            if stage == read {
                shop.reading[0].let_one_pass();
                shop.reading[1].arrival().await;
            }
            if stage == answer {
                self.check(&shop.answered(asked.take().unwrap()).await);
            }
        }
        let mut is_stale = false;
        if let Some(late) = late {
            let truth = shop.truth(self.id).to_string();
            is_stale |= within(late).await.unwrap().text() != truth;
        }
        is_stale |= !shop.is_up_to_date(&path).await;
        is_stale
    }

    async fn enter(&self, stage: Stage, writer: &mut Option<JoinHandle<Result<(), BoxError>>>) {
        let [inside, ended] = &self.shop.writing;
        match stage {
            Before => {}
            Inside => {
                let write = write(self.shop.clone(), self.id, self.way, self.end);
                *writer = Some(tokio::spawn(write));
                inside.arrival().await;
            }
            Ended => {
                inside.let_one_pass();
                ended.arrival().await;
            }
            After => {
                let writer = writer.take().unwrap();
                match self.end {
                    End::Aborted | End::AbortedAfterwards => writer.abort(),
                    End::Refused | End::Panicked => inside.let_one_pass(),
                    End::Committed | End::RolledBack => ended.let_one_pass(),
                }
                let went_well = matches!(within(writer).await, Ok(Ok(())));
                assert_eq!(went_well, self.end == End::Committed);
                let is_changed = matches!(self.end, End::Committed | End::AbortedAfterwards);
                assert_eq!(self.shop.truth(self.id), 1 + u32::from(is_changed));
            }
        }
    }

    /// What the slow request's own answer says of itself.
    fn check(&self, answer: &Answer) {
        let is_held = matches!(self.reading[2], Inside | Ended);
        if self.way == Way::Guard && is_held {
            assert_eq!(answer.reason(), Some(Reason::HeldOff), "{self}");
            let says = answer.header("cache-status").unwrap();
            assert!(says.ends_with("; fwd=uri-miss; detail=held-off"), "{says}");
        } else if self.reading[0] == After {
            assert!(answer.cache().is_stored(), "{self}");
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (way, end, reading) = (self.way, self.end, self.reading);
        write!(f, "{way:?}, {end:?}, {reading:?}, {:?}", self.is_awaited)
    }
}

/// The readings after which a stale page is left, and how many there are in all.
async fn stale_after(way: Way, end: End, is_awaited: bool) -> (Vec<Reading>, usize) {
    let (shop, mut stale) = (Shop::new(), Vec::new());
    let readings = end.readings();
    for (id, &reading) in (1..).zip(&readings) {
        let schedule = Schedule {
            shop: shop.clone(),
            id,
            way,
            end,
            reading,
            is_awaited,
        };
        if schedule.leaves_a_stale_page().await {
            stale.push(reading);
        }
    }
    shop.nothing_is_left().await;
    (stale, readings.len())
}

async fn no_schedule_leaves_a_stale_page(end: End, readings: usize) {
    for is_awaited in [false, true] {
        let found = stale_after(Way::Guard, end, is_awaited).await;
        assert_eq!(found, (Vec::new(), readings), "{end:?}, {is_awaited}");
    }
}

// Invariants 36, 37, 38.
#[tokio::test]
async fn whenever_a_handler_reads_around_a_committed_transaction_no_stale_page_is_left() {
    no_schedule_leaves_a_stale_page(End::Committed, 20).await;
}

// Invariants 36, 37, 38.
#[tokio::test]
async fn whenever_a_handler_reads_around_a_transaction_rolled_back_no_stale_page_is_left() {
    no_schedule_leaves_a_stale_page(End::RolledBack, 20).await;
}

// Invariants 36, 37, 38.
#[tokio::test]
async fn whenever_a_handler_reads_around_a_transaction_that_fails_no_stale_page_is_left() {
    no_schedule_leaves_a_stale_page(End::Refused, 10).await;
}

// Invariants 36, 37, 38.
#[tokio::test]
async fn whenever_a_handler_reads_around_an_aborted_transaction_no_stale_page_is_left() {
    no_schedule_leaves_a_stale_page(End::Aborted, 10).await;
}

// Invariants 36, 37, 38.
#[tokio::test]
async fn whenever_a_handler_reads_around_a_transaction_that_panics_no_stale_page_is_left() {
    no_schedule_leaves_a_stale_page(End::Panicked, 10).await;
}

// Invariants 36, 37, 38.
#[tokio::test]
async fn a_writer_aborted_between_the_databases_commit_and_the_guards_leaves_no_stale_page() {
    no_schedule_leaves_a_stale_page(End::AbortedAfterwards, 20).await;
}

// A control: the same schedules see a stale page where there is one.
#[tokio::test]
async fn a_purge_before_the_databases_commit_leaves_stale_what_is_read_between_them() {
    for is_awaited in [false, true] {
        let (stale, _) = stale_after(Way::PurgeBefore, End::Committed, is_awaited).await;
        let expected = [Inside, Ended, After].map(|answer| [Inside, Inside, answer]);
        assert_eq!(stale, expected);
    }
}

// A control, too: what the guard is for.
#[tokio::test]
async fn a_purge_after_the_databases_commit_is_enough_unless_the_writer_is_cut_off_before_it() {
    let (stale, _) = stale_after(Way::PurgeAfter, End::Committed, false).await;
    assert_eq!(stale, [[Before; 3]; 0]);
    let (stale, _) = stale_after(Way::PurgeAfter, End::AbortedAfterwards, false).await;
    let is_old = |reading: &Reading| reading[1] <= Inside;
    let mut expected = End::AbortedAfterwards.readings();
    expected.retain(is_old);
    assert_eq!((stale.len(), stale), (10, expected));
}

// ---- what the guard is like meanwhile

// Invariants 36, 38.
#[tokio::test]
async fn what_is_stored_is_served_until_the_guard_commits_and_others_are_stored_as_usual() {
    let shop = Shop::new();
    assert_eq!(shop.shown("/products/1").await, (1, false));
    let purge = shop.handle.begin_purge(PRODUCT.tag(1));
    let transaction = shop.begin().await;
    transaction.raise(1, 1).unwrap();
    transaction.raise(2, 1).unwrap();
    assert_eq!(shop.shown("/products/1").await, (1, true));
    for hit in [false, true] {
        assert_eq!(shop.shown("/products/3").await, (1, hit));
    }
    transaction.commit().unwrap();
    assert_eq!(shop.shown("/products/1").await, (1, true));
    assert_eq!(purge.commit().await.unwrap().marks, 1);
    assert_eq!(shop.shown("/products/1").await, (2, false));
    assert_eq!(shop.shown("/products/3").await, (1, true));
    assert!(shop.is_up_to_date("/products/1").await);
    shop.nothing_is_left().await;
}

// Invariants 25, 37, 60.
#[tokio::test]
async fn what_is_held_off_says_so_and_those_who_come_after_the_guard_share_one_call() {
    let shop = Shop::new();
    let purge = shop.handle.begin_purge(PRODUCT.tag(1));
    let says = async || {
        let answer = shop.ask("/products/1").await;
        answer.header("cache-status").unwrap().to_owned()
    };
    let held = "tower-response-cache; fwd=uri-miss; detail=held-off";
    assert_eq!((says().await, says().await), (held.into(), held.into()));
    // Nobody knows the tags before the answer: those who come later wait for it as well, and are not given it.
    let leader = shop.ask_and_read("/products/1").await;
    let follower = shop.ask_slowly("/products/1");
    until(|| shop.handle.stats().waiters == 1).await;
    let transaction = shop.begin().await;
    transaction.raise(1, 1).unwrap();
    transaction.commit().unwrap();
    let _ = purge.commit().await.unwrap();
    let calls = shop.origin.calls();
    let herd: Vec<_> = (0..20).map(|_| shop.ask_slowly("/products/1")).collect();
    until(|| shop.handle.stats().waiters == 21).await;
    shop.reading[1].let_one_pass();
    shop.handler_reads().await;
    shop.reading[1].let_one_pass();
    for early in [leader, follower] {
        assert_eq!(within(early).await.unwrap().text(), "1");
    }
    for late in herd {
        assert_eq!(within(late).await.unwrap().text(), "2");
    }
    assert_eq!(shop.origin.calls(), calls + 1);
    assert!(shop.is_up_to_date("/products/1").await);
    shop.nothing_is_left().await;
}

// Invariants 36, 38.
#[tokio::test]
async fn of_two_guards_on_one_tag_the_last_one_lets_go_of_it() {
    for (first_commits, second_commits) in
        [(true, true), (true, false), (false, true), (false, false)]
    {
        for is_nested in [true, false] {
            let shop = Shop::new();
            let outer = shop.handle.begin_purge(PRODUCT.tag(1));
            let inner = shop.handle.begin_purge([PRODUCT.tag(1), PRODUCT.tag(2)]);
            let (first, second) = if is_nested {
                (inner, outer)
            } else {
                (outer, inner)
            };
            let slow = shop.ask_and_read("/products/1").await;
            let transaction = shop.begin().await;
            transaction.raise(1, 1).unwrap();
            if first_commits {
                let _ = first.commit().await.unwrap();
            } else {
                drop(first);
            }
            // The other one's change is not yet to be seen.
            for _ in 0..2 {
                let answer = shop.ask("/products/1?late").await;
                assert_eq!(
                    (answer.text(), answer.reason()),
                    ("1", Some(Reason::HeldOff))
                );
            }
            let is_held = shop.ask("/products/2").await.reason() == Some(Reason::HeldOff);
            assert_eq!(is_held, !is_nested);
            transaction.commit().unwrap();
            if second_commits {
                let _ = second.commit().await.unwrap();
            } else {
                drop(second);
            }
            assert_eq!(shop.answered(slow).await.text(), "1");
            for path in ["/products/1", "/products/1?late", "/products/2"] {
                assert!(shop.is_up_to_date(path).await, "{path}");
            }
            assert_eq!(shop.handle.stats().purges, 2);
            shop.nothing_is_left().await;
        }
    }
}

// Invariants 36, 38, 43.
#[tokio::test]
async fn a_guard_of_several_tags_together_purges_what_bears_them_all() {
    let shop = Shop::new();
    let (both, others) = ("/products/1?de", ["/products/1?fr", "/products/2?de"]);
    for path in others.into_iter().chain([both]) {
        assert_eq!(shop.shown(path).await, (1, false));
    }
    let purge = shop
        .handle
        .begin_purge(Tags::all_of([PRODUCT.tag(1), Tag::new("de")]));
    let transaction = shop.begin().await;
    let slow = shop.ask_and_read("/products/1?de&slow").await;
    transaction.raise(1, 1).unwrap();
    transaction.commit().unwrap();
    assert_eq!(shop.shown(both).await, (1, true));
    assert_eq!(purge.commit().await.unwrap().marks, 1);
    assert_eq!(shop.answered(slow).await.text(), "1");
    assert!(shop.is_up_to_date(both).await);
    assert_eq!(
        shop.shown(others[0]).await,
        (1, true),
        "the purge was not of it"
    );
    assert_eq!(
        shop.shown(others[1]).await,
        (1, true),
        "the purge was not of it"
    );
    shop.nothing_is_left().await;
}

// Invariants 38, 40.
#[tokio::test(start_paused = true)]
async fn after_a_soft_commit_what_is_older_is_served_as_stale_only_and_refreshed() {
    let shop = Shop::of(CacheLayer::builder().stale_while_revalidate(HOUR));
    assert_eq!(shop.shown("/products/1").await, (1, false));
    let purge = shop.handle.begin_purge(PRODUCT.tag(1));
    let transaction = shop.begin().await;
    let slow = shop.ask_and_read("/products/1?slow").await;
    let held = shop.ask("/products/1?held").await;
    assert_eq!(held.reason(), Some(Reason::HeldOff));
    transaction.raise(1, 1).unwrap();
    transaction.commit().unwrap();
    let _ = purge.commit().soft().await.unwrap();
    assert_eq!(shop.answered(slow).await.text(), "1");
    for path in ["/products/1", "/products/1?slow"] {
        let stored = shop.handle.stats().stored;
        let answer = shop.ask(path).await;
        let expected = ("1", Some(Duration::ZERO));
        assert_eq!((answer.text(), answer.cache().ttl()), expected, "{path}");
        eventually(|| shop.handle.stats().stored > stored).await;
        assert_eq!(shop.shown(path).await, (2, true), "{path}");
    }
    assert_eq!(shop.shown("/products/1?held").await, (2, false));
    shop.nothing_is_left().await;
}

// Invariants 36, 38.
#[tokio::test]
async fn a_commit_that_refreshes_fetches_what_the_transaction_wrote() {
    let builder = CacheLayer::builder().refreshable();
    let layer = builder.ttl(HOUR).stale_while_revalidate(HOUR).build();
    let plain = Shop::new();
    let (cache, handle) = (layer.layer(plain.origin.clone()), layer.handle());
    assert_eq!(send(&cache, get("/products/1")).await.text(), "1");
    let purge = handle.begin_purge(PRODUCT.tag(1));
    let transaction = plain.begin().await;
    transaction.raise(1, 1).unwrap();
    transaction.commit().unwrap();
    assert_eq!(purge.commit().refresh().await.unwrap().refreshed, 1);
    let answer = send(&cache, get("/products/1")).await;
    assert_eq!((answer.text(), answer.is_hit()), ("2", true));
}

// What has expired is not made fresh again by a 304 that speaks of what was so in the middle of the transaction.
// Invariants 36, 38.
#[tokio::test(start_paused = true)]
async fn a_304_from_inside_the_transaction_renews_nothing() {
    for answered_inside in [true, false] {
        let shop = Shop::new();
        let inner = shop.origin.clone();
        let origin = Origin::later(move |request| {
            let asked_for = request.headers().get("if-none-match").cloned();
            let inner = inner.clone();
            async move {
                let response = inner.oneshot(request).await.unwrap();
                let (mut parts, body) = response.into_parts();
                let body = common::read(http::Response::new(body)).await.body;
                let etag = format!("\"{}\"", std::str::from_utf8(&body).unwrap());
                let is_same = asked_for.is_some_and(|tag| tag == etag.as_str());
                parts.headers.insert("etag", etag.parse().unwrap());
                if is_same {
                    parts.status = StatusCode::NOT_MODIFIED;
                    return http::Response::from_parts(parts, common::empty());
                }
                http::Response::from_parts(parts, common::full(body))
            }
        });
        let layer = CacheLayer::builder().ttl(HOUR).build();
        let cache = layer.layer(origin);
        let shop = Shop {
            handle: layer.handle(),
            ..shop
        };
        let asked = |request| {
            let cache = cache.clone();
            async move { send(&cache, request).await }
        };
        assert_eq!(asked(get("/products/1")).await.text(), "1");
        advance(HOUR * 2).await;
        let purge = shop.handle.begin_purge(PRODUCT.tag(1));
        let transaction = shop.begin().await;
        transaction.raise(1, 1).unwrap();
        let slow = tokio::spawn(asked(with(get("/products/1"), "x-slow", "1")));
        shop.handler_reads().await;
        if answered_inside {
            shop.reading[1].let_one_pass();
            eventually(|| slow.is_finished()).await;
        }
        transaction.commit().unwrap();
        let _ = purge.commit().await.unwrap();
        shop.reading[1].let_one_pass();
        assert_eq!(within(slow).await.unwrap().text(), "1");
        for is_hit in [false, true] {
            let answer = asked(get("/products/1")).await;
            assert_eq!((answer.text(), answer.is_hit()), ("2", is_hit));
        }
    }
}

// ---- where the transaction runs elsewhere

/// A transaction that a thread commits when it is told to, whatever has become of the task that began it.
struct Commit {
    task: JoinHandle<()>,
    go_on: mpsc::Sender<()>,
    is_done: mpsc::Receiver<()>,
}

impl Commit {
    /// Where the guard `goes_along` it is in the closure that commits, otherwise in the task that waits for this.
    fn begin(shop: &Shop, id: u32, goes_along: bool) -> Self {
        let ((go_on, told), (done, is_done)) = (mpsc::channel(), mpsc::channel());
        let (connection, handle) = (shop.database.connect(), shop.handle.clone());
        let task = tokio::spawn(async move {
            let mut guard = Some(handle.begin_purge(PRODUCT.tag(id)));
            let along = if goes_along { guard.take() } else { None };
            let transaction = spawn_blocking(move || {
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                raise(&connection, id, 1).unwrap();
                told.recv().unwrap();
                connection.execute_batch("COMMIT").unwrap();
                done.send(()).unwrap();
                along
            });
            let along = transaction.await.unwrap();
            if let Some(guard) = along.or(guard) {
                let _ = guard.commit().await.unwrap();
            }
        });
        Self {
            task,
            go_on,
            is_done,
        }
    }
}

// Invariants 36, 38.
#[tokio::test]
async fn a_guard_that_goes_along_with_a_blocking_transaction_outlives_an_aborted_task() {
    for is_aborted in [true, false] {
        let shop = Shop::new();
        let commit = Commit::begin(&shop, 1, true);
        settle().await;
        if is_aborted {
            commit.task.abort();
            settle().await;
        }
        let held = shop.ask("/products/1").await;
        assert_eq!((held.text(), held.reason()), ("1", Some(Reason::HeldOff)));
        commit.go_on.send(()).unwrap();
        eventually(|| shop.handle.stats().purges == 1).await;
        commit.is_done.recv().unwrap();
        assert_eq!(within(commit.task).await.is_err(), is_aborted);
        assert!(shop.is_up_to_date("/products/1").await);
        shop.nothing_is_left().await;
    }
}

// A control: a guard cannot know that what it is for goes on without it.
#[tokio::test]
async fn a_guard_that_does_not_go_along_with_a_blocking_transaction_leaves_a_stale_page_when_its_task_is_aborted()
 {
    let shop = Shop::new();
    let commit = Commit::begin(&shop, 1, false);
    settle().await;
    commit.task.abort();
    assert!(within(commit.task).await.is_err());
    assert_eq!(shop.shown("/products/1").await, (1, false));
    commit.go_on.send(()).unwrap();
    within(spawn_blocking(move || commit.is_done.recv()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(shop.truth(1), 2);
    assert!(!shop.is_up_to_date("/products/1").await);
}

// Invariants 36, 38.
#[tokio::test]
async fn a_guard_ends_on_a_thread_without_a_runtime_as_well() {
    let shop = Shop::new();
    for (id, commits) in [(1, true), (2, false)] {
        let purge = shop.handle.begin_purge(PRODUCT.tag(id));
        let connection = shop.database.connect();
        let path = page(id);
        assert_eq!(shop.ask(&path).await.reason(), Some(Reason::HeldOff));
        let thread = thread::spawn(move || {
            raise(&connection, id, 1).unwrap();
            if commits {
                drop(purge.commit());
            }
        });
        thread.join().unwrap();
        assert!(shop.is_up_to_date(&path).await);
    }
    let _ = shop.handle.purge(Tag::new("nobody's")).await.unwrap();
    shop.nothing_is_left().await;
}

// ---- a replica that lags

impl Shop {
    /// From now on the handlers see what is so now, until they are brought [up to date](Self::catch_up).
    fn lag(&self) {
        for reader in &*self.readers {
            let reader = reader.lock().unwrap();
            reader.execute_batch("BEGIN").unwrap();
            version(&reader, 1);
        }
    }

    fn catch_up(&self) {
        for reader in &*self.readers {
            let reader = reader.lock().unwrap();
            reader.execute_batch("COMMIT").unwrap();
        }
    }
}

const LAG: Duration = Duration::from_secs(2);

/// A change that the handlers see two seconds later, and who came meanwhile: whether a stale page is left.
async fn lagging(is_held_off: bool) -> bool {
    let shop = Shop::new();
    assert_eq!(shop.shown("/products/1").await, (1, false));
    shop.lag();
    let purge = shop.handle.begin_purge(PRODUCT.tag(1));
    let transaction = shop.begin().await;
    transaction.raise(1, 1).unwrap();
    transaction.commit().unwrap();
    let replica = shop.clone();
    let caught_up = tokio::spawn(async move {
        sleep(LAG).await;
        replica.catch_up();
    });
    settle().await;
    let purge = purge.commit();
    let purge = if is_held_off {
        purge.hold_off(LAG)
    } else {
        purge
    };
    let _ = purge.await.unwrap();
    advance(LAG - Duration::from_millis(1)).await;
    let slow = shop.ask_and_read("/products/1?slow").await;
    let between = shop.ask("/products/1").await;
    assert_eq!(between.text(), "1");
    assert_eq!(shop.shown("/products/2").await, (1, false));
    assert_eq!(
        shop.shown("/products/2").await,
        (1, true),
        "it is not held off"
    );
    advance(Duration::from_millis(1)).await;
    within(caught_up).await.unwrap();
    let slow = shop.answered(slow).await;
    assert_eq!(slow.text(), "1");
    for answer in [between, slow] {
        let reason = is_held_off.then_some(Reason::HeldOff);
        assert_eq!(answer.reason(), reason, "{answer:?}");
    }
    let mut is_stale = false;
    for path in ["/products/1", "/products/1?slow"] {
        is_stale |= !shop.is_up_to_date(path).await;
    }
    shop.nothing_is_left().await;
    is_stale
}

// Invariants 36, 38.
#[tokio::test(start_paused = true)]
async fn what_a_lagging_replica_says_is_not_stored_as_long_as_it_lags() {
    assert!(!lagging(true).await);
    assert!(lagging(false).await, "the control sees the stale page");
}

// ---- a storm

const PRODUCTS: usize = 6;
const READERS: u64 = 8;
const WRITERS: u64 = 4;
const READS: usize = 600;

/// What readers and writers agree on: for each product a version that a writer had made known when it was done.
#[derive(Debug, Default)]
struct Storm {
    announced: [AtomicU32; PRODUCTS],
    is_over: AtomicBool,
    transactions: AtomicUsize,
    aborted: AtomicUsize,
    stale: AtomicUsize,
}

/// The random choices of one change.
#[derive(Debug, Clone, Copy)]
struct Change {
    way: Way,
    id: u32,
    inside: usize,
    afterwards: usize,
    is_undone: bool,
    blocks: bool,
}

async fn pause(turns: usize) {
    match turns {
        0 => {}
        1..4 => {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
        _ => sleep(Duration::from_millis(1)).await,
    }
}

/// Notes the version when the database has it.
async fn change(shop: Shop, change: Change, wrote: Arc<AtomicU32>) -> Result<(), BoxError> {
    let (way, id) = (change.way, change.id);
    let purge = (way == Way::Guard).then(|| shop.handle.begin_purge(PRODUCT.tag(id)));
    let transaction = shop.begin().await;
    let version = transaction.raise(id, 1)?;
    if way == Way::PurgeBefore {
        let _ = shop.handle.purge(PRODUCT.tag(id)).await?;
    }
    pause(change.inside).await;
    if change.is_undone {
        transaction.raise(id, i32::MIN)?;
    }
    transaction.commit()?;
    wrote.store(version, Ordering::SeqCst);
    pause(change.afterwards).await;
    if let Some(purge) = purge {
        let _ = purge.commit().await?;
    }
    Ok(())
}

/// The same on a thread; the guard goes along, and nobody knows when it is done if the task is aborted.
async fn change_blocking(
    shop: Shop,
    change: Change,
    wrote: Arc<AtomicU32>,
) -> Result<(), BoxError> {
    let purge = shop.handle.begin_purge(PRODUCT.tag(change.id));
    let writer = shop.writer.clone().lock_owned().await;
    let transaction = move || -> rusqlite::Result<_> {
        let mut connection = writer;
        let transaction = connection.transaction()?;
        let version = raise(&transaction, change.id, 1)?;
        if change.is_undone {
            raise(&transaction, change.id, i32::MIN)?;
        }
        transaction.commit()?;
        Ok((purge, version))
    };
    let (purge, version) = spawn_blocking(transaction).await??;
    let _ = purge.commit().await?;
    wrote.store(version, Ordering::SeqCst);
    Ok(())
}

async fn writes(shop: Shop, storm: Arc<Storm>, way: Way, seed: u64) {
    let mut random = Random::new(seed * 7919 + 5);
    while !storm.is_over.load(Ordering::Relaxed) {
        let at = random.below(PRODUCTS);
        let choice = Change {
            way,
            id: at as u32 + 1,
            inside: random.below(6),
            afterwards: random.below(6),
            is_undone: random.one_in(5),
            blocks: way == Way::Guard && random.one_in(3),
        };
        let wrote = Arc::new(AtomicU32::new(0));
        let task = if choice.blocks {
            tokio::spawn(change_blocking(shop.clone(), choice, wrote.clone()))
        } else {
            tokio::spawn(change(shop.clone(), choice, wrote.clone()))
        };
        if random.one_in(3) {
            pause(random.below(6)).await;
            task.abort();
        }
        let ended = within(task).await;
        let is_aborted = ended.as_ref().is_err_and(|error| error.is_cancelled());
        assert!(is_aborted || ended.is_ok());
        storm
            .aborted
            .fetch_add(usize::from(is_aborted), Ordering::Relaxed);
        storm.transactions.fetch_add(1, Ordering::Relaxed);
        // The guard is gone: whoever comes now sees this, or newer.
        storm.announced[at].fetch_max(wrote.load(Ordering::SeqCst), Ordering::SeqCst);
        pause(random.below(5)).await;
    }
}

async fn reads(shop: Shop, storm: Arc<Storm>, seed: u64) {
    let mut random = Random::new(seed * 104_729 + 7);
    for _ in 0..READS {
        let at = random.below(PRODUCTS);
        let path = format!("/products/{}?{}", at + 1, random.below(3));
        if random.one_in(8) {
            // Hangs up.
            let patience = Duration::from_micros(random.below(300) as u64);
            let _ = timeout(patience, shop.cache.clone().oneshot(get(&path))).await;
            continue;
        }
        let announced = storm.announced[at].load(Ordering::SeqCst);
        let (shown, _) = shop.shown(&path).await;
        storm
            .stale
            .fetch_add(usize::from(shown < announced), Ordering::Relaxed);
        pause(random.below(5)).await;
    }
}

async fn storm(way: Way) -> (Shop, Arc<Storm>) {
    let (shop, storm) = (Shop::new(), Arc::new(Storm::default()));
    let writers = (0..WRITERS).map(|seed| writes(shop.clone(), storm.clone(), way, seed));
    let writers: Vec<_> = writers.map(tokio::spawn).collect();
    let readers = (0..READERS).map(|seed| reads(shop.clone(), storm.clone(), seed));
    for reader in readers.map(tokio::spawn).collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    storm.is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    println!("{way:?}: {storm:?} {:?}", shop.handle.stats());
    (shop, storm)
}

// Invariants 31, 36, 37, 38.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_storm_of_transactions_nobody_sees_less_than_what_a_writer_had_announced() {
    let (shop, storm) = storm(Way::Guard).await;
    assert_eq!(storm.stale.load(Ordering::Relaxed), 0);
    shop.nothing_is_left().await;
    for id in 1..=PRODUCTS as u32 {
        for view in 0..3 {
            let path = format!("/products/{id}?{view}");
            assert!(shop.is_up_to_date(&path).await, "{path}");
        }
    }
    let (stats, transactions) = (
        shop.handle.stats(),
        storm.transactions.load(Ordering::Relaxed),
    );
    assert!(stats.hits > 100 && stats.misses > 100 && transactions > 100);
    assert!(storm.aborted.load(Ordering::Relaxed) > 10);
}

// A control: the same storm sees stale pages where there are some.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_storm_of_transactions_purges_before_the_commit_leave_stale_pages() {
    let (_, storm) = storm(Way::PurgeBefore).await;
    assert!(storm.stale.load(Ordering::Relaxed) > 0);
}

// Invariant 60.
#[tokio::test]
async fn what_was_purged_before_it_was_answered_does_not_say_that_it_is_stored() {
    let shop = Shop::new();
    let purge = shop.handle.begin_purge(PRODUCT.tag(1));
    let slow = shop.ask_and_read("/products/1").await;
    let _ = purge.commit().await.unwrap();
    let answer = shop.answered(slow).await;
    assert_eq!(shop.handle.stats().stored, 0);
    assert!(!answer.cache().is_stored(), "{answer:?}");
}

// Invariants 28, 37.
#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_since_before_a_purge_keeps_nobody_waiting_who_comes_after_it() {
    let shop = Shop::new();
    let slow = shop.ask_and_read("/products/1").await;
    let request = get("/products/1").into_parts().0;
    // Everything, and what is known without an answer: the flight is of no use to whoever comes now.
    let _ = shop.handle.purge_all().await.unwrap();
    let _ = shop.handle.purge_request(&request).await.unwrap();
    let began = tokio::time::Instant::now();
    for is_hit in [false, true] {
        let answer = shop.ask("/products/1").await;
        let waited = began.elapsed();
        assert!(
            answer.is_hit() == is_hit && waited.as_secs() == 0,
            "{waited:?} {answer:?}"
        );
    }
    slow.abort();
}

// Invariant 36.
#[tokio::test]
async fn a_guard_of_several_tags_together_holds_only_what_bears_them_all() {
    let shop = Shop::new();
    let purge = shop
        .handle
        .begin_purge(Tags::all_of([PRODUCT.tag(1), Tag::new("de")]));
    for path in ["/products/1?fr", "/products/2?de"] {
        let answer = shop.ask(path).await;
        assert_eq!(
            answer.reason(),
            None,
            "{path}: it is not what the purge is of"
        );
    }
    let _ = purge.commit().await.unwrap();
}
