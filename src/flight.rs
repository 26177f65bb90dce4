//! Who leads and who waits. Knows no HTTP.
//!
//! The first who asks for a key leads its flight; whoever asks until it is over waits for what the leader publishes.
//! A flight is unlinked first and its outcome published after, so that nobody joins one that is over. If the leader
//! fails while others wait, the flight stays and one of them takes the lead, once.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};

use crate::clock::before;

/// The flights of one cache, by key.
pub(crate) struct Flights<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    hasher: RandomState,
}

/// How many there are; their keys are the users'.
impl<T> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("flights", &self.len())
            .finish_non_exhaustive()
    }
}

type Shard<T> = HashMap<Box<[u8]>, Seat<T>>;

const SHARDS: usize = 32;

/// A flight in the table.
#[derive(Debug)]
struct Seat<T> {
    signal: Arc<watch::Sender<Signal<T>>>,
    waiters: usize,
    led: bool,
    opinion: Opinion,
    born: Born,
}

/// When the call of the newest leader was born, as the purge clock counts. Zero until it is.
type Born = Arc<AtomicU64>;

/// Whether a failure of this leader is the first that those who wait will hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opinion {
    First,
    Second,
}

/// What the leader lets those who wait know. A late one still reads the newest.
#[derive(Debug, Clone)]
enum Signal<T> {
    Flying,
    /// The leader is gone: one of those who wait takes its place.
    Vacant,
    Answer(T),
    /// There will be no answer.
    Over,
}

/// What came of asking for a place on a flight.
#[derive(Debug)]
pub(crate) enum Boarding<T: Clone, F> {
    /// Nobody was on it: the caller leads.
    Lead(Leader<T>),
    /// Somebody leads: the caller waits.
    Follow(Follower<T>),
    /// What is looked for was found at the last moment.
    Found(F),
    /// As many wait as may.
    Full,
}

/// What came of waiting.
#[derive(Debug)]
pub(crate) enum Landing<T: Clone> {
    Answer(T),
    /// The leader failed, and it is up to the caller now.
    Lead(Leader<T>),
    /// There is no answer.
    Over,
    TimedOut,
}

impl<T> Flights<T> {
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

impl<T: Clone> Flights<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        })
    }

    /// A place on the flight for this key. `look_again` runs under the table's lock if there is none yet: it closes
    /// the window between having looked and starting a flight.
    pub(crate) fn board<F>(
        self: &Arc<Self>,
        key: &[u8],
        max_waiters: usize,
        look_again: impl FnOnce() -> Option<F>,
    ) -> Boarding<T, F> {
        let mut shard = self.shard(key);
        if let Some(seat) = shard.get_mut(key) {
            if !seat.led {
                seat.led = true;
                return Boarding::Lead(Leader::of(self, key, seat));
            }
            if seat.waiters >= max_waiters {
                return Boarding::Full;
            }
            seat.waiters += 1;
            return Boarding::Follow(Follower {
                place: Place::of(self, key, seat),
                signals: seat.signal.subscribe(),
            });
        }
        if let Some(found) = look_again() {
            return Boarding::Found(found);
        }
        let seat = Seat {
            signal: Arc::new(watch::Sender::new(Signal::Flying)),
            waiters: 0,
            led: true,
            opinion: Opinion::First,
            born: Born::default(),
        };
        let leader = Leader::of(self, key, &seat);
        shard.insert(key.into(), seat);
        Boarding::Lead(leader)
    }

    /// How many wait on the flight for this key. `None` if there is none.
    pub(crate) fn waiting_for(&self, key: &[u8]) -> Option<usize> {
        self.shard(key).get(key).map(|seat| seat.waiters)
    }

    pub(crate) fn waiters(&self) -> usize {
        let waiting =
            |shard: &Mutex<Shard<T>>| lock(shard).values().map(|seat| seat.waiters).sum::<usize>();
        self.shards.iter().map(waiting).sum()
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard<T>> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low bits of a hash are as good as any"
        )]
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        lock(&self.shards[at])
    }
}

fn lock<T>(shard: &Mutex<Shard<T>>) -> MutexGuard<'_, Shard<T>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flight, as its leader and those who wait know it: the key alone would not tell it from one that came after it.
#[derive(Debug)]
struct Place<T> {
    flights: Arc<Flights<T>>,
    key: Box<[u8]>,
    signal: Arc<watch::Sender<Signal<T>>>,
    born: Born,
}

impl<T: Clone> Place<T> {
    fn of(flights: &Arc<Flights<T>>, key: &[u8], seat: &Seat<T>) -> Self {
        Self {
            flights: flights.clone(),
            key: key.into(),
            signal: seat.signal.clone(),
            born: seat.born.clone(),
        }
    }

    /// What `act` makes of this flight while it is in the table, under the table's lock.
    fn with_seat<R>(&self, act: impl FnOnce(&mut Shard<T>, &[u8]) -> R) -> Option<R> {
        let mut shard = self.flights.shard(&self.key);
        let same = shard
            .get(&*self.key)
            .is_some_and(|seat| Arc::ptr_eq(&seat.signal, &self.signal));
        same.then(|| act(&mut shard, &self.key))
    }

    fn unlink(&self) {
        self.with_seat(|shard, key| shard.remove(key));
    }
}

/// The one who brings the answer. Dropped without having brought one (its task was aborted, its client left), it
/// leaves the lead to one of those who wait.
#[derive(Debug)]
pub(crate) struct Leader<T: Clone> {
    /// `None` once the flight is over.
    place: Option<Place<T>>,
    opinion: Opinion,
    announced: bool,
}

impl<T: Clone> Leader<T> {
    fn of(flights: &Arc<Flights<T>>, key: &[u8], seat: &Seat<T>) -> Self {
        Self {
            place: Some(Place::of(flights, key, seat)),
            opinion: seat.opinion,
            announced: false,
        }
    }

    pub(crate) fn opinion(&self) -> Opinion {
        self.opinion
    }

    /// Where it is to be told when its call is born. `None` once the flight is over.
    pub(crate) fn born(&self) -> Option<Born> {
        self.place.as_ref().map(|place| place.born.clone())
    }

    /// Publishes an answer that is still coming in: whoever asks until it is whole has it too.
    pub(crate) fn announce(&mut self, answer: T) {
        if let Some(place) = &self.place {
            self.announced = true;
            place.signal.send_replace(Signal::Answer(answer));
        }
    }

    /// Takes the flight out of the table: nobody joins it any more. Its followers still get what is published.
    pub(crate) fn unlink(&self) {
        self.place.iter().for_each(Place::unlink);
    }

    /// Publishes the answer, and ends the flight.
    pub(crate) fn land(mut self, answer: T) {
        self.end(Signal::Answer(answer));
    }

    /// Ends the flight without an answer.
    pub(crate) fn give_up(mut self) {
        self.end(Signal::Over);
    }

    /// The leader failed: the first time one of those who wait takes the lead, the second time the flight is over.
    pub(crate) fn fail(mut self) {
        match self.opinion {
            Opinion::First => self.hand_over(Opinion::Second),
            Opinion::Second => self.end(Signal::Over),
        }
    }

    fn end(&mut self, last: Signal<T>) {
        if let Some(place) = self.place.take() {
            place.unlink();
            place.signal.send_replace(last);
        }
    }

    fn hand_over(&mut self, opinion: Opinion) {
        if self.announced {
            return self.end(Signal::Over);
        }
        let Some(place) = self.place.take() else {
            return;
        };
        let is_in_the_table = place.with_seat(|shard, key| match shard.get_mut(key) {
            Some(seat) if seat.waiters > 0 => {
                seat.led = false;
                seat.born.store(0, Ordering::Release);
                seat.opinion = opinion;
                // Under the lock: somebody who comes now may take the lead at once, and must not be overwritten.
                seat.signal.send_replace(Signal::Vacant);
            }
            _ => {
                shard.remove(key);
            }
        });
        if is_in_the_table.is_none() {
            // It was taken out already: nobody can take the lead there any more.
            place.signal.send_replace(Signal::Over);
        }
    }
}

impl<T: Clone> Drop for Leader<T> {
    fn drop(&mut self) {
        self.hand_over(self.opinion);
    }
}

/// One who waits. Dropped while waiting, it leaves the others as they are.
#[derive(Debug)]
pub(crate) struct Follower<T: Clone> {
    place: Place<T>,
    signals: watch::Receiver<Signal<T>>,
}

impl<T: Clone> Follower<T> {
    /// Waits until there is an answer, or there will be none, or the deadline has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves the flight; if it was the last to wait on one that nobody leads, the flight ends.
    pub(crate) async fn wait(&mut self, deadline: Instant) -> Landing<T> {
        loop {
            // Read to its end before the lock is taken: the borrow is a lock too.
            let signal = self.signals.borrow_and_update().clone();
            match signal {
                Signal::Answer(answer) => return Landing::Answer(answer),
                Signal::Over => return Landing::Over,
                Signal::Vacant => {
                    if let Some(leader) = self.take_the_lead() {
                        return Landing::Lead(leader);
                    }
                }
                Signal::Flying => {}
            }
            match before(deadline, self.signals.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) => return Landing::Over,
                None => return Landing::TimedOut,
            }
        }
    }

    /// Waits until the flight is over, or nobody leads it, or the deadline has passed. An answer that is only announced is still coming in.
    ///
    /// # Cancel safety
    ///
    /// As [`wait`](Self::wait).
    pub(crate) async fn wait_for_its_end(&mut self, deadline: Instant) {
        loop {
            let is_vacant = matches!(*self.signals.borrow_and_update(), Signal::Vacant);
            let is_over = self.place.with_seat(|_, _| ()).is_none();
            if is_vacant || is_over {
                return;
            }
            let Some(Ok(())) = before(deadline, self.signals.changed()).await else {
                return;
            };
        }
    }

    /// When the call was born that it waits for. `None` if it was not yet.
    pub(crate) fn born(&self) -> Option<u64> {
        let born = self.place.born.load(Ordering::Acquire);
        (born > 0).then_some(born)
    }

    /// Takes this flight out of the table: its answer is not for those who come from now on. Those who wait for it
    /// still get it.
    pub(crate) fn leave_behind(&self) {
        self.place.unlink();
    }

    fn take_the_lead(&self) -> Option<Leader<T>> {
        let taken = self.place.with_seat(|shard, key| {
            let seat = shard.get_mut(key).filter(|seat| !seat.led)?;
            seat.led = true;
            Some(Leader::of(&self.place.flights, key, seat))
        });
        taken.flatten()
    }
}

impl<T: Clone> Drop for Follower<T> {
    fn drop(&mut self) {
        self.place.with_seat(|shard, key| {
            if let Some(seat) = shard.get_mut(key) {
                seat.waiters -= 1;
                if seat.waiters == 0 && !seat.led {
                    shard.remove(key);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    type Table = Arc<Flights<u32>>;

    fn board(flights: &Table) -> Boarding<u32, u32> {
        flights.board(b"key", 2, || None)
    }

    fn lead(flights: &Table) -> Leader<u32> {
        match board(flights) {
            Boarding::Lead(leader) => leader,
            other => panic!("{other:?}"),
        }
    }

    fn follow(flights: &Table) -> Follower<u32> {
        match board(flights) {
            Boarding::Follow(follower) => follower,
            other => panic!("{other:?}"),
        }
    }

    async fn waiting(mut follower: Follower<u32>) -> Landing<u32> {
        follower.wait(soon()).await
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    // Invariant 25.
    #[tokio::test(start_paused = true)]
    async fn those_who_wait_get_the_answer_and_the_flight_is_over() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let mut early = spawn(waiting(follow(&flights)));
        let late = follow(&flights);
        assert_pending!(early.poll());
        leader.land(7);
        assert!(early.is_woken());
        assert!(matches!(assert_ready!(early.poll()), Landing::Answer(7)));
        assert_eq!(flights.len(), 0);
        let mut late = spawn(waiting(late));
        assert!(
            matches!(assert_ready!(late.poll()), Landing::Answer(7)),
            "it can be read late"
        );
        assert!(
            matches!(board(&flights), Boarding::Lead(_)),
            "the next begins a new flight"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_announced_answer_is_there_for_those_who_come_until_it_is_whole() {
        let flights = Flights::new();
        let mut leader = lead(&flights);
        leader.announce(7);
        let mut follower = spawn(waiting(follow(&flights)));
        assert!(matches!(assert_ready!(follower.poll()), Landing::Answer(7)));
        drop(follower);
        assert_eq!((flights.len(), flights.waiters()), (1, 0));
        drop(leader);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_end_is_not_content_with_an_announcement() {
        let flights = Flights::new();
        let mut leader = lead(&flights);
        let mut follower = follow(&flights);
        leader.announce(7);
        let mut waiting = spawn(async move { follower.wait_for_its_end(soon()).await });
        assert_pending!(waiting.poll());
        leader.land(7);
        assert!(waiting.is_woken());
        assert_ready!(waiting.poll());
        drop(waiting);

        let leader = lead(&flights);
        let mut follower = follow(&flights);
        let mut waiting = spawn(async move { follower.wait_for_its_end(soon()).await });
        assert_pending!(waiting.poll());
        leader.fail();
        assert_ready!(waiting.poll());
        drop(waiting);
        assert_eq!((flights.len(), flights.waiters()), (0, 0));
    }

    // Invariant 30.
    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_of_those_who_wait_leads_and_after_the_second_nobody() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let (mut a, mut b) = (
            spawn(waiting(follow(&flights))),
            spawn(waiting(follow(&flights))),
        );
        assert_pending!(a.poll());
        assert_pending!(b.poll());
        leader.fail();
        let Landing::Lead(second) = assert_ready!(a.poll()) else {
            panic!("nobody took the lead");
        };
        assert_eq!(second.opinion(), Opinion::Second);
        assert_pending!(b.poll());
        second.fail();
        assert!(matches!(assert_ready!(b.poll()), Landing::Over));
        assert_eq!((flights.len(), flights.waiters()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_may_take_the_lead_that_is_vacant() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let mut follower = spawn(waiting(follow(&flights)));
        assert_pending!(follower.poll());
        leader.fail();
        let second = lead(&flights);
        assert_eq!(second.opinion(), Opinion::Second);
        assert_pending!(follower.poll());
        second.land(9);
        assert!(matches!(assert_ready!(follower.poll()), Landing::Answer(9)));
    }

    // Invariant 26.
    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_dropped_is_no_failure() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let mut follower = spawn(waiting(follow(&flights)));
        assert_pending!(follower.poll());
        drop(leader);
        let Landing::Lead(next) = assert_ready!(follower.poll()) else {
            panic!("nobody took the lead");
        };
        assert_eq!(next.opinion(), Opinion::First);
        drop(follower);
        drop(next);
        assert_eq!(
            flights.len(),
            0,
            "with nobody waiting, the flight goes with its leader"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_to_leave_a_vacant_flight_ends_it() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let follower = follow(&flights);
        leader.fail();
        assert_eq!(flights.len(), 1);
        drop(follower);
        assert_eq!((flights.len(), flights.waiters()), (0, 0));
    }

    // Invariant 26.
    #[tokio::test(start_paused = true)]
    async fn an_old_guard_leaves_a_newer_flight_alone() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let follower = follow(&flights);
        leader.land(1);
        let newer = lead(&flights);
        drop(follower);
        assert_eq!(flights.len(), 1);
        newer.land(2);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_was_left_behind_is_over_for_those_who_come_and_lands_for_those_who_wait()
    {
        let flights = Flights::new();
        let leader = lead(&flights);
        let mut waits = spawn(waiting(follow(&flights)));
        follow(&flights).leave_behind();
        let newer = lead(&flights);
        leader.land(1);
        assert!(matches!(assert_ready!(waits.poll()), Landing::Answer(1)));
        drop(waits);
        assert_eq!(flights.len(), 1);
        newer.land(2);
        assert_eq!((flights.len(), flights.waiters()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_wait_as_may_and_one_more_does_not() {
        let flights = Flights::new();
        let _leader = lead(&flights);
        let first = follow(&flights);
        let _second = follow(&flights);
        assert!(matches!(board(&flights), Boarding::Full));
        drop(first);
        assert!(matches!(board(&flights), Boarding::Follow(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline() {
        let flights = Flights::new();
        let _leader = lead(&flights);
        let mut follower = spawn(waiting(follow(&flights)));
        assert_pending!(follower.poll());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(matches!(assert_ready!(follower.poll()), Landing::TimedOut));
        drop(follower);
        assert_eq!(flights.waiters(), 0);
    }

    #[tokio::test]
    async fn what_is_found_at_the_last_moment_starts_no_flight() {
        let flights: Table = Flights::new();
        assert!(matches!(
            flights.board(b"key", 2, || Some(5u32)),
            Boarding::Found(5)
        ));
        assert_eq!(flights.len(), 0);
    }
}
