//! The flight table: who leads the fetch of a key, and who follows. Knows no HTTP.
//!
//! The first request for a key leads its flight; later ones follow it until it is over. A flight is unlinked first and
//! its outcome published after, so that nobody joins one that is over. If the leader fails while others follow, the flight
//! stays and one follower takes the lead, once.
//!
//! A leader that hangs is not waited for alone. A flight without a head for `leader_timeout` lets one follower try, and
//! another after twice, four times, … that time, with at most [`MAX_CALLS`] calls under way. The first of them that
//! answers decides for the flight; what the others bring is not published.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::clock::{before, deadline_in};

/// How many calls one flight has under way at most, when its leaders hang.
pub(crate) const MAX_CALLS: usize = 3;

/// A `leader_timeout` of zero is this long.
const LEAST_PATIENCE: Duration = Duration::from_millis(1);

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

type Shard<T> = HashMap<Box<[u8]>, Arc<Flight<T>>>;

const SHARDS: usize = 32;

/// One flight: shared by the table, its leaders and its followers, also after it was unlinked.
#[derive(Debug)]
struct Flight<T> {
    signal: watch::Sender<Signal<T>>,
    /// Locked after the shard, never before it.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiters: usize,
    /// Leaders whose answer is waited for.
    leaders: usize,
    /// Calls under way, with those that nobody waits for any more.
    calls: usize,
    /// How many leaders there have been: the number of the newest.
    attempts: u32,
    /// One follower, or a request that comes now, is to take the lead.
    vacant: bool,
    opinion: Opinion,
    /// The birth of the newest call, as the purge clock counts. Zero until there is one.
    born: u64,
    /// The number of the leader whose answer is published.
    answered: Option<u32>,
    pace: Option<Pace>,
}

/// The times at which a flight without a head lets followers try.
#[derive(Debug)]
struct Pace {
    began: Instant,
    patience: Duration,
    next: Duration,
}

impl Pace {
    fn new(patience: Duration) -> Self {
        Self {
            began: Instant::now(),
            patience,
            next: patience.max(LEAST_PATIENCE),
        }
    }

    /// Whether the time for the next attempt has come. If so, the one after it is put off: by twice the time that has passed at the most.
    fn is_due(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.began);
        let is_due = self.next <= passed;
        while self.next <= passed {
            self.next = self.next.saturating_mul(2);
        }
        is_due
    }

    fn at(&self, after: Duration) -> Instant {
        let far = || deadline_in(Duration::MAX);
        self.began.checked_add(after).unwrap_or_else(far)
    }
}

/// Whether a failure of this leader is the first that the followers will hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opinion {
    First,
    Second,
}

/// What the followers are told. A late one still reads the newest.
#[derive(Debug, Clone)]
enum Signal<T> {
    Flying,
    /// From the leader with this number.
    Answer(u32, T),
    /// There will be no answer.
    Over,
}

/// What came of asking for a place on a flight.
#[derive(Debug)]
pub(crate) enum Boarding<T: Clone, F> {
    /// Nobody was on it: the caller leads.
    Lead(Leader<T>),
    /// Somebody leads: the caller follows.
    Follow(Follower<T>),
    /// What is looked for was found at the last moment.
    Found(F),
    /// As many follow as may.
    Full,
}

/// What came of waiting.
#[derive(Debug)]
pub(crate) enum Landing<T: Clone> {
    Answer(T),
    /// The leader failed, or takes too long, and it is up to the caller now.
    Lead(Leader<T>),
    /// There is no answer.
    Over,
    /// The flight has had no head for so long that what is stale is served.
    Late,
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
        if let Some(flight) = shard.get(key) {
            let mut state = lock(&flight.state);
            if state.vacant {
                return Boarding::Lead(Leader::new(self.place(key, flight), &mut state));
            }
            if state.waiters >= max_waiters {
                return Boarding::Full;
            }
            state.waiters += 1;
            return Boarding::Follow(Follower {
                signals: flight.signal.subscribe(),
                place: self.place(key, flight),
                is_counted: true,
            });
        }
        if let Some(found) = look_again() {
            return Boarding::Found(found);
        }
        let flight = Arc::new(Flight {
            signal: watch::Sender::new(Signal::Flying),
            state: Mutex::new(State {
                waiters: 0,
                leaders: 0,
                calls: 0,
                attempts: 0,
                vacant: true,
                opinion: Opinion::First,
                born: 0,
                answered: None,
                pace: None,
            }),
        });
        let leader = Leader::new(self.place(key, &flight), &mut lock(&flight.state));
        shard.insert(key.into(), flight);
        Boarding::Lead(leader)
    }

    /// How many wait on the flight for this key. `None` if there is none.
    pub(crate) fn waiting_for(&self, key: &[u8]) -> Option<usize> {
        let shard = self.shard(key);
        shard.get(key).map(|flight| lock(&flight.state).waiters)
    }

    pub(crate) fn waiters(&self) -> usize {
        let waiting = |shard: &Mutex<Shard<T>>| {
            let shard = lock(shard);
            let flights = shard.values();
            flights
                .map(|flight| lock(&flight.state).waiters)
                .sum::<usize>()
        };
        self.shards.iter().map(waiting).sum()
    }

    fn place(self: &Arc<Self>, key: &[u8], flight: &Arc<Flight<T>>) -> Place<T> {
        Place {
            flights: self.clone(),
            key: key.into(),
            flight: flight.clone(),
        }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flight, as its leaders and followers know it: the key alone would not tell it from one that came after it.
#[derive(Debug, Clone)]
struct Place<T> {
    flights: Arc<Flights<T>>,
    key: Box<[u8]>,
    flight: Arc<Flight<T>>,
}

impl<T: Clone> Place<T> {
    /// What `act` makes of this flight and of the table's shard, under the locks of both.
    fn locked<R>(&self, act: impl FnOnce(&mut Seats<'_, T>, &mut State) -> R) -> R {
        let mut seats = Seats {
            shard: self.flights.shard(&self.key),
            place: self,
        };
        let mut state = lock(&self.flight.state);
        act(&mut seats, &mut state)
    }

    /// Wakes the followers: what they may do has changed.
    fn wake(&self) {
        self.flight.signal.send_modify(|_| ());
    }

    /// Takes the flight out of the table, and publishes its outcome: under the locks, so that nobody joins in between.
    fn end(&self, seats: &mut Seats<'_, T>, last: Signal<T>) {
        seats.unlink();
        self.flight.signal.send_replace(last);
    }
}

/// The part of the table where a flight is, locked.
struct Seats<'a, T> {
    shard: MutexGuard<'a, Shard<T>>,
    place: &'a Place<T>,
}

impl<T> Seats<'_, T> {
    fn is_linked(&self) -> bool {
        let linked = self.shard.get(&*self.place.key);
        linked.is_some_and(|flight| Arc::ptr_eq(flight, &self.place.flight))
    }

    /// Takes the flight out of the table, if it is there: not one that came after it.
    fn unlink(&mut self) {
        if self.is_linked() {
            self.shard.remove(&*self.place.key);
        }
    }
}

/// One who brings the answer. Dropped without having brought one (its task was aborted, its client left), it leaves the
/// lead to a follower.
#[derive(Debug)]
pub(crate) struct Leader<T: Clone> {
    place: Place<T>,
    number: u32,
    opinion: Opinion,
    /// The flight waits for this leader.
    is_awaited: bool,
}

/// How a leader leaves its flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// Without a word, or after too long a time.
    Silently,
    Failed,
    /// It will have no answer for anybody, and another leader would have none either.
    GivenUp,
}

impl<T: Clone> Leader<T> {
    fn new(place: Place<T>, state: &mut State) -> Self {
        state.vacant = false;
        state.attempts += 1;
        state.calls += 1;
        if state.leaders == 0 {
            state.pace = None;
        }
        state.leaders += 1;
        Self {
            place,
            number: state.attempts,
            opinion: state.opinion,
            is_awaited: true,
        }
    }

    /// Whether a failure of this leader would be the first or the second of the flight.
    pub(crate) fn opinion(&mut self) -> Opinion {
        self.opinion = lock(&self.place.flight.state).opinion;
        self.opinion
    }

    /// The call begins: from now on followers count how long the flight has had no head.
    pub(crate) fn set_out(&self, patience: Duration) {
        let has_waiters = {
            let mut state = lock(&self.place.flight.state);
            if state.pace.is_some() {
                return;
            }
            state.pace = Some(Pace::new(patience));
            state.waiters > 0
        };
        if has_waiters {
            self.place.wake();
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// What tells the flight when the call is born.
    pub(crate) fn teller(&self) -> impl FnOnce(u64) + use<T> {
        let flight = self.place.flight.clone();
        move |born| {
            let mut state = lock(&flight.state);
            state.born = state.born.max(born);
        }
    }

    /// Publishes an answer that is still coming in: requests that come until it is whole have it too. `false` if another leader has
    /// answered already.
    pub(crate) fn announce(&mut self, answer: T) -> bool {
        self.is_awaited && self.publish(answer, false)
    }

    /// Takes the flight out of the table: nobody joins it any more. Its followers still get what is published. Not if another leader
    /// has answered already: its body is still coming in.
    pub(crate) fn unlink(&self) {
        self.place.locked(|seats, state| {
            let is_own = state.answered.is_none_or(|number| number == self.number);
            if self.is_awaited && is_own {
                seats.unlink();
            }
        });
    }

    /// Publishes the answer, and ends the flight, unless another leader has answered already.
    pub(crate) fn land(mut self, answer: T) {
        if self.is_awaited {
            self.publish(answer, true);
            self.leave(Leaves::Silently);
        }
    }

    /// Ends the flight without an answer, unless another leads.
    pub(crate) fn give_up(mut self) {
        self.leave(Leaves::GivenUp);
    }

    /// The leader failed: the first time one of the followers takes the lead, the second time the flight is over.
    pub(crate) fn fail(mut self) {
        self.leave(Leaves::Failed);
    }

    /// Nobody waits for this call any more, which goes on. It is counted as long as the guard lives.
    pub(crate) fn withdraw(&mut self) {
        self.leave(Leaves::Silently);
    }

    fn publish(&self, answer: T, is_whole: bool) -> bool {
        let answer = Signal::Answer(self.number, answer);
        self.place.locked(|seats, state| {
            let is_own = *state.answered.get_or_insert(self.number) == self.number;
            if is_own && is_whole {
                self.place.end(seats, answer);
            } else if is_own {
                self.place.flight.signal.send_replace(answer);
            }
            is_own
        })
    }

    fn leave(&mut self, how: Leaves) {
        if !std::mem::take(&mut self.is_awaited) {
            return;
        }
        self.place.locked(|seats, state| {
            state.leaders -= 1;
            match state.answered {
                // Its answer was announced, and is cut short.
                Some(number) if number == self.number && seats.is_linked() => {
                    return self.place.end(seats, Signal::Over);
                }
                Some(_) => return,
                None => {}
            }
            let is_last = state.leaders == 0;
            if is_last {
                state.born = 0;
            }
            let is_over = match (how, self.opinion) {
                (Leaves::Failed, Opinion::First) => false,
                (Leaves::Failed, Opinion::Second) | (Leaves::GivenUp, _) => is_last,
                (Leaves::Silently, _) => false,
            };
            let is_first_failure = how == Leaves::Failed && self.opinion == Opinion::First;
            if is_first_failure {
                state.opinion = Opinion::Second;
            }
            if is_over || (is_last && state.waiters == 0) {
                self.place.end(seats, Signal::Over);
            } else if is_last || (is_first_failure && state.waiters > 0) {
                // Under the lock: a request that comes now may take the lead at once.
                state.vacant = true;
                self.place.wake();
            }
        });
    }
}

impl<T: Clone> Drop for Leader<T> {
    fn drop(&mut self) {
        self.leave(Leaves::Silently);
        lock(&self.place.flight.state).calls -= 1;
    }
}

/// One who waits. Dropped while waiting, it leaves the others as they are.
#[derive(Debug)]
pub(crate) struct Follower<T: Clone> {
    place: Place<T>,
    signals: watch::Receiver<Signal<T>>,
    /// It is among the waiters.
    is_counted: bool,
}

/// What a follower does while there is no answer.
enum Next<T: Clone> {
    Wait(Instant),
    Is(Landing<T>),
}

impl<T: Clone> Follower<T> {
    /// Waits until there is an answer, or there will be none, or it is this follower's turn to try, or the deadline has passed. One that
    /// can fall back on something stale does not try: it waits until the flight is [late](Landing::Late).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves the flight; if it was the last to wait on one that nobody leads, the flight ends.
    pub(crate) async fn wait(&mut self, deadline: Instant, falls_back: bool) -> Landing<T> {
        loop {
            // Read to its end before the lock is taken: the borrow is a lock too.
            let signal = self.signals.borrow_and_update().clone();
            match signal {
                Signal::Answer(_, answer) => return Landing::Answer(answer),
                Signal::Over => return Landing::Over,
                Signal::Flying => {}
            }
            let until = match self.next(deadline, falls_back) {
                Next::Is(landing) => return landing,
                Next::Wait(until) => until,
            };
            if let Some(Err(_)) = before(until, self.signals.changed()).await {
                return Landing::Over;
            }
        }
    }

    fn next(&mut self, deadline: Instant, falls_back: bool) -> Next<T> {
        let now = Instant::now();
        let place = &self.place;
        let (next, has_left) = place.locked(|_, state| {
            if now >= deadline {
                return (Next::Is(Landing::TimedOut), false);
            }
            if state.answered.is_some() {
                return (Next::Wait(deadline), false);
            }
            if state.vacant {
                return (Next::Is(Landing::Lead(self.lead(state))), true);
            }
            let Some(pace) = &mut state.pace else {
                return (Next::Wait(deadline), false);
            };
            if falls_back {
                let late = pace.at(pace.patience);
                let is_late = now >= late;
                let next = if is_late {
                    Next::Is(Landing::Late)
                } else {
                    Next::Wait(deadline.min(late))
                };
                return (next, false);
            }
            let is_due = pace.is_due(now);
            let next = pace.at(pace.next);
            if is_due && state.calls < MAX_CALLS {
                return (Next::Is(Landing::Lead(self.lead(state))), true);
            }
            (Next::Wait(deadline.min(next)), false)
        });
        if has_left {
            self.is_counted = false;
        }
        next
    }

    /// This follower tries, and is no longer among those who wait.
    fn lead(&self, state: &mut State) -> Leader<T> {
        state.waiters -= 1;
        Leader::new(self.place.clone(), state)
    }

    /// Waits for the answer of another leader than this follower has become, until the deadline. `None` if there is none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn wait_for_another(&mut self, number: u32, deadline: Instant) -> Option<T> {
        loop {
            let signal = self.signals.borrow_and_update().clone();
            match signal {
                Signal::Answer(from, answer) if from != number => return Some(answer),
                Signal::Answer(..) | Signal::Over => return None,
                Signal::Flying => {}
            }
            before(deadline, self.signals.changed()).await?.ok()?;
        }
    }

    /// Waits until the flight is over, or nobody leads it, or the deadline has passed. An answer that is only announced is still coming in.
    ///
    /// # Cancel safety
    ///
    /// As [`wait`](Self::wait).
    pub(crate) async fn wait_for_its_end(&mut self, deadline: Instant) {
        loop {
            drop(self.signals.borrow_and_update());
            let is_over = self
                .place
                .locked(|seats, state| state.vacant || !seats.is_linked());
            if is_over {
                return;
            }
            let Some(Ok(())) = before(deadline, self.signals.changed()).await else {
                return;
            };
        }
    }

    /// When the newest call was born that it waits for. `None` if it was not yet.
    pub(crate) fn born(&self) -> Option<u64> {
        let born = lock(&self.place.flight.state).born;
        (born > 0).then_some(born)
    }

    /// Takes this flight out of the table: its answer is not for those who come from now on. Those who wait for it
    /// still get it.
    pub(crate) fn leave_behind(&self) {
        self.place.locked(|seats, _| seats.unlink());
    }
}

impl<T: Clone> Drop for Follower<T> {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        self.place.locked(|seats, state| {
            state.waiters -= 1;
            if state.waiters == 0 && state.leaders == 0 {
                seats.unlink();
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
        follower.wait(soon(), false).await
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
        let Landing::Lead(mut second) = assert_ready!(a.poll()) else {
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
        let mut second = lead(&flights);
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
        let Landing::Lead(mut next) = assert_ready!(follower.poll()) else {
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

    const PATIENCE: Duration = Duration::from_secs(1);

    /// Three followers of a leader that has set out.
    fn hanging(flights: &Table) -> (Leader<u32>, Vec<Follower<u32>>) {
        let leader = match flights.board(b"key", 9, || None::<u32>) {
            Boarding::Lead(leader) => leader,
            other => panic!("{other:?}"),
        };
        leader.set_out(PATIENCE);
        let follow = || match flights.board(b"key", 9, || None::<u32>) {
            Boarding::Follow(follower) => follower,
            other => panic!("{other:?}"),
        };
        let followers = (0..5).map(|_| follow()).collect();
        (leader, followers)
    }

    async fn try_to_lead(follower: &mut Follower<u32>) -> Leader<u32> {
        match follower.wait(soon(), false).await {
            Landing::Lead(leader) => leader,
            other => panic!("{other:?}"),
        }
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn followers_try_one_at_a_time_at_doubling_intervals_and_three_calls_run_at_most() {
        let (flights, began) = (Flights::new(), Instant::now());
        let (first, mut followers) = hanging(&flights);
        let at = || began.elapsed().as_millis();
        let second = try_to_lead(&mut followers[0]).await;
        assert!((1000..1005).contains(&at()), "{}", at());
        second.set_out(PATIENCE);
        let third = try_to_lead(&mut followers[1]).await;
        assert!((2000..2005).contains(&at()), "{}", at());
        assert_eq!(flights.waiters(), 3);
        // A fourth call would be one too many.
        assert!(matches!(
            followers[2].wait(soon(), false).await,
            Landing::TimedOut
        ));
        drop(third);
        assert_eq!(flights.len(), 1, "two others lead");
        let fourth = try_to_lead(&mut followers[2]).await;
        assert!((16_000..16_005).contains(&at()), "{}", at());
        drop((first, second, fourth, followers));
        assert_eq!((flights.len(), flights.waiters()), (0, 0));
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn followers_that_come_long_after_the_leader_do_not_all_try_at_once() {
        let flights = Flights::new();
        let (_first, mut followers) = hanging(&flights);
        tokio::time::advance(PATIENCE * 5).await;
        let _second = try_to_lead(&mut followers[0]).await;
        let began = Instant::now();
        let _third = try_to_lead(&mut followers[1]).await;
        assert!(began.elapsed() >= PATIENCE * 3);
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn the_first_answer_decides_and_a_late_leader_overwrites_neither_it_nor_a_newer_flight() {
        let flights = Flights::new();
        let (mut first, mut followers) = hanging(&flights);
        let mut second = try_to_lead(&mut followers[0]).await;
        assert!(second.announce(2));
        assert!(!first.announce(1));
        assert!(matches!(
            followers[1].wait(soon(), false).await,
            Landing::Answer(2)
        ));
        second.land(2);
        assert_eq!(flights.len(), 0);
        let newer = lead(&flights);
        first.land(1);
        assert!(matches!(
            followers[2].wait(soon(), false).await,
            Landing::Answer(2)
        ));
        assert_eq!(flights.len(), 1, "the newer flight is still there");
        let mut waits = follow(&flights);
        newer.land(3);
        assert!(matches!(
            waits.wait(soon(), false).await,
            Landing::Answer(3)
        ));
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn a_follower_that_tries_hears_another_leader_and_not_itself() {
        let flights = Flights::new();
        let (first, mut followers) = hanging(&flights);
        let mut second = try_to_lead(&mut followers[0]).await;
        let number = second.number();
        let mut own = spawn(followers[0].wait_for_another(number, soon()));
        assert_pending!(own.poll());
        second.announce(2);
        assert_eq!(assert_ready!(own.poll()), None);
        drop(own);
        drop((second, first, followers));
        assert_eq!((flights.len(), flights.waiters()), (0, 0));

        let (first, mut followers) = hanging(&flights);
        let second = try_to_lead(&mut followers[0]).await;
        let number = second.number();
        let mut own = spawn(followers[0].wait_for_another(number, soon()));
        assert_pending!(own.poll());
        first.land(1);
        assert_eq!(assert_ready!(own.poll()), Some(1));
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn a_leader_that_gives_up_or_withdraws_ends_no_flight_that_another_leads() {
        let flights = Flights::new();
        let (mut first, mut followers) = hanging(&flights);
        let second = try_to_lead(&mut followers[0]).await;
        second.give_up();
        assert!(flights.waiting_for(b"key").is_some());
        let third = try_to_lead(&mut followers[1]).await;
        first.withdraw();
        let mut waits = spawn(followers[2].wait(soon(), false));
        assert_pending!(waits.poll());
        third.land(3);
        assert!(matches!(assert_ready!(waits.poll()), Landing::Answer(3)));
        drop(waits);
        first.fail();
        assert_eq!(flights.len(), 0);
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn when_the_last_leader_withdraws_one_follower_leads() {
        let flights = Flights::new();
        let (mut first, mut followers) = hanging(&flights);
        first.withdraw();
        let _second = try_to_lead(&mut followers[0]).await;
        let mut waits = spawn(followers[1].wait(soon(), false));
        assert_pending!(waits.poll());
    }

    // Invariants 30, 65.
    #[tokio::test(start_paused = true)]
    async fn a_failure_beside_a_leader_that_hangs_lets_one_follower_try_and_is_the_first_of_two() {
        let flights = Flights::new();
        let (mut first, mut followers) = hanging(&flights);
        let second = try_to_lead(&mut followers[0]).await;
        second.fail();
        let mut third = try_to_lead(&mut followers[1]).await;
        assert_eq!(third.opinion(), Opinion::Second);
        assert_eq!(first.opinion(), Opinion::Second);
        third.land(3);
        assert!(matches!(
            followers[2].wait(soon(), false).await,
            Landing::Answer(3)
        ));
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn a_follower_with_something_stale_is_late_at_the_leaders_timeout_and_does_not_try() {
        let (flights, began) = (Flights::new(), Instant::now());
        let (_first, mut followers) = hanging(&flights);
        assert!(matches!(
            followers[0].wait(soon(), true).await,
            Landing::Late
        ));
        assert!((1000..1005).contains(&began.elapsed().as_millis()));
        assert!(matches!(
            followers[1].wait(soon(), false).await,
            Landing::Lead(_)
        ));
    }

    // Invariant 65.
    #[tokio::test(start_paused = true)]
    async fn the_birth_of_a_flight_is_that_of_its_newest_call() {
        let flights = Flights::new();
        let (first, mut followers) = hanging(&flights);
        first.teller()(3);
        let second = try_to_lead(&mut followers[0]).await;
        assert_eq!(followers[1].born(), Some(3));
        second.teller()(5);
        assert_eq!(followers[1].born(), Some(5));
        drop((first, second));
        assert_eq!(followers[1].born(), None, "nobody leads");
    }

    // Invariant 26.
    #[tokio::test(start_paused = true)]
    async fn followers_of_a_flight_that_was_left_behind_hear_of_a_failure_too() {
        let flights = Flights::new();
        let (leader, mut followers) = hanging(&flights);
        followers[0].leave_behind();
        leader.fail();
        assert!(matches!(
            followers[0].wait(soon(), false).await,
            Landing::Lead(_)
        ));
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
