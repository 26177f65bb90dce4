//! The flight table under random schedules: leaders of one key that announce, land, fail, give up, hang and vanish, several on one
//! flight, and followers that come, leave and try, in any order.

use std::{collections::HashMap, pin::Pin, sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, advance};
use tokio_test::task::{Spawn, spawn};

use super::scale::scaled;
use crate::flight::{Boarding, Flights, Follower, Landing, Leader, MAX_CALLS};

const KEY: &[u8] = b"key";
const PATIENCE: Duration = Duration::from_secs(1);
const STEPS: usize = 60;

/// A leader, the flight that it is on, and what is known of it.
struct Leading {
    leader: Leader<u64>,
    flight: u64,
    is_awaited: bool,
}

impl Leading {
    /// What it publishes: which flight and which leader it comes from.
    fn answer(&self) -> u64 {
        self.flight * 1000 + u64::from(self.leader.number())
    }
}

type Waiting = Pin<Box<dyn Future<Output = Landing<u64>>>>;

/// Answers and followers of one key, and what must hold between them.
struct World {
    flights: Arc<Flights<u64>>,
    random: u64,
    /// The newest flight, in the table or not.
    newest: u64,
    leaders: Vec<Leading>,
    followers: Vec<(Spawn<Waiting>, u64)>,
    /// The answer of each flight that has one: the first to be published.
    answers: HashMap<u64, u64>,
    /// Flights that a leader has failed on: one more follower tries then.
    failed: HashMap<u64, usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            flights: Flights::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            newest: 0,
            leaders: Vec::new(),
            followers: Vec::new(),
            answers: HashMap::new(),
            failed: HashMap::new(),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap() % bound
    }

    fn board(&mut self) {
        let is_new = self.flights.len() == 0;
        match self.flights.board(KEY, 8, || None::<u64>) {
            Boarding::Lead(leader) => {
                self.newest += u64::from(is_new);
                self.lead(leader, self.newest);
            }
            Boarding::Follow(follower) => {
                if self.below(20) == 0 {
                    // A purge has come since: this flight is not for later requests.
                    follower.leave_behind();
                }
                let follower = (spawn(waits(follower)), self.newest);
                self.followers.push(follower);
                self.poll(|_| true);
            }
            Boarding::Full => assert_eq!(self.flights.waiters(), 8),
            Boarding::Found(_) => unreachable!(),
        }
    }

    fn lead(&mut self, leader: Leader<u64>, flight: u64) {
        leader.set_out(PATIENCE);
        let others = self.leaders.iter().filter(|other| other.flight == flight);
        let (calls, awaited) = others.fold((0, 0), |(calls, awaited), other| {
            (calls + 1, awaited + usize::from(other.is_awaited))
        });
        let failed = self.failed.get(&flight).copied().unwrap_or(0);
        assert!(
            calls < MAX_CALLS || awaited == 0 || failed > 0,
            "a herd: {calls} calls, {awaited} of them waited for"
        );
        self.leaders.push(Leading {
            leader,
            flight,
            is_awaited: true,
        });
    }

    /// Something happens to a leader.
    fn act(&mut self) {
        if self.leaders.is_empty() {
            return;
        }
        let (at, what) = (self.below(self.leaders.len()), self.below(7));
        if what == 0 {
            let leading = &mut self.leaders[at];
            if leading.leader.announce(leading.answer()) {
                let answer = leading.answer();
                assert!(leading.is_awaited);
                assert_eq!(
                    *self.answers.entry(leading.flight).or_insert(answer),
                    answer
                );
            }
            return;
        }
        if what == 1 {
            let leading = &mut self.leaders[at];
            leading.leader.withdraw();
            leading.is_awaited = false;
            return;
        }
        let leading = self.leaders.swap_remove(at);
        match what {
            2 => leading.leader.give_up(),
            3 => {
                *self.failed.entry(leading.flight).or_default() += 1;
                leading.leader.fail();
            }
            4 => drop(leading),
            _ => self.land(leading),
        }
    }

    fn land(&mut self, leading: Leading) {
        let answer = leading.answer();
        if leading.is_awaited {
            self.answers.entry(leading.flight).or_insert(answer);
        }
        leading.leader.land(answer);
    }

    /// Polls those followers that were woken, and those that are chosen.
    fn poll(&mut self, also: impl Fn(usize) -> bool) {
        let mut at = 0;
        while at < self.followers.len() {
            let (follower, flight) = &mut self.followers[at];
            let flight = *flight;
            if !follower.is_woken() && !also(at) {
                at += 1;
                continue;
            }
            let Poll::Ready(landing) = follower.poll() else {
                at += 1;
                continue;
            };
            drop(self.followers.swap_remove(at));
            match landing {
                Landing::Answer(answer) => {
                    assert_eq!(
                        Some(&answer),
                        self.answers.get(&flight),
                        "of its own flight"
                    );
                }
                Landing::Lead(leader) => self.lead(leader, flight),
                Landing::Over | Landing::TimedOut => {}
                Landing::Late => unreachable!("it has nothing stale"),
            }
        }
    }

    /// All leaders hang, or answer; each follower has an answer, leads, or is told that there is none, in time.
    async fn end(&mut self) {
        while !self.followers.is_empty() {
            let before = self.followers.len();
            if let Some(leading) = self.leaders.pop() {
                self.land(leading);
            } else {
                advance(PATIENCE * 4).await;
            }
            self.poll(|_| false);
            let is_stuck = self.followers.len() == before && self.leaders.is_empty();
            assert!(!is_stuck, "nobody leads, and nobody was woken");
        }
        self.leaders.clear();
        assert_eq!((self.flights.len(), self.flights.waiters()), (0, 0));
    }
}

fn waits(mut follower: Follower<u64>) -> Waiting {
    let deadline = Instant::now() + PATIENCE * 30;
    Box::pin(async move { follower.wait(deadline, false).await })
}

// Invariants 26, 30, 65.
#[tokio::test(start_paused = true)]
async fn with_several_leaders_each_follower_has_the_first_answer_of_its_flight_and_nothing_is_left()
{
    let mut several = 0;
    for seed in 0..scaled(2000) as u64 {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            match world.below(8) {
                0..3 => world.board(),
                3 | 4 => world.act(),
                5 => {
                    let millis = world.below(2500) as u64;
                    advance(Duration::from_millis(millis)).await;
                }
                6 if !world.followers.is_empty() => {
                    let at = world.below(world.followers.len());
                    drop(world.followers.swap_remove(at));
                }
                _ => {}
            }
            world.poll(|_| false);
            let newest = world.newest;
            let of_newest = world.leaders.iter().filter(|other| other.flight == newest);
            several += usize::from(of_newest.count() > 1);
        }
        world.end().await;
    }
    assert!(
        several > 1000,
        "too few flights with several leaders: {several}"
    );
}
