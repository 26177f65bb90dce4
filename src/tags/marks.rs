//! What was purged, and what is held: the tables behind the purge clock.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use tokio::time::Instant;

/// A tag, or the key of a request, as a keyed 64-bit hash: a collision purges too much, never too little.
pub(crate) type TagHash = u64;

/// For tables whose keys are hashes already, keyed ones: they are not hashed again.
pub(super) type Hashed = BuildHasherDefault<AsItIs>;

#[derive(Debug, Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// What a purge is of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Targets {
    /// What bears any of these.
    any: Vec<TagHash>,
    /// What bears all of some tags: one list of them each.
    all: Vec<Box<[TagHash]>>,
    everything: bool,
}

impl Targets {
    pub(crate) fn any(tags: impl IntoIterator<Item = TagHash>) -> Self {
        Self {
            any: tags.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Of none, nothing. Beyond the first few, tags are not asked for: too much is purged, never too little.
    pub(crate) fn all(tags: impl IntoIterator<Item = TagHash>) -> Self {
        let mut all: Vec<_> = tags.into_iter().take(MAX_JOINED).collect();
        all.sort_unstable();
        all.dedup();
        if all.len() == 1 {
            return Self::any(all);
        }
        let all = (!all.is_empty()).then(|| all.into());
        Self {
            all: all.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(crate) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many marks it takes.
    pub(crate) fn len(&self) -> usize {
        self.any.len() + self.all.len() + usize::from(self.everything)
    }

    /// Adds those of the others that are not among these, and returns which they were.
    pub(crate) fn add(&mut self, others: &Self) -> Self {
        let is_new = |tag: &&TagHash| !self.any.contains(tag);
        let any: Vec<_> = others.any.iter().filter(is_new).copied().collect();
        let joints = others.all.iter();
        let all: Vec<_> = joints
            .filter(|joint| !self.all.contains(joint))
            .cloned()
            .collect();
        self.any.extend(&any);
        self.all.extend(all.iter().cloned());
        self.everything |= others.everything;
        Self {
            any,
            all,
            everything: others.everything,
        }
    }

    /// Whether a response that bears these tags is meant.
    pub(crate) fn mean(&self, tags: &[TagHash]) -> bool {
        self.everything
            || self.any.iter().any(|tag| tags.contains(tag))
            || self
                .all
                .iter()
                .any(|joint| joint.iter().all(|tag| tags.contains(tag)))
    }
}

/// How hard a purge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// Never served again.
    Hard,
    /// Stale from then on.
    Soft(Instant),
}

/// What the marks say of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Current,
    /// Purged softly, at this time or somewhat later.
    Stale(Instant),
    Purged,
}

/// How many of the newest marks are kept in their order.
const MAX_RECENT: usize = 256;

/// The most tags that are looked at together.
const MAX_JOINED: usize = 16;

/// The most purges of several tags together that are kept in mind with one of these. One more is of that tag alone.
const MAX_JOINTS: usize = 64;

#[derive(Default)]
pub(crate) struct Marks {
    at: HashMap<TagHash, Mark, Hashed>,
    /// Of several tags together, with the first of them.
    joints: HashMap<TagHash, Vec<Joint>, Hashed>,
    /// The newest marks in the order of their epochs, so that a response with many tags is compared with what was purged since it was
    /// last found valid, and not each of its tags with the table.
    recent: VecDeque<(u64, TagHash)>,
    /// Every mark above this epoch is in `recent`.
    recent_after: u64,
    of_everything: Mark,
    /// Everything born below counts as purged.
    floor: u64,
    /// No mark is below this.
    oldest: u64,
    /// The epoch at which the last sweep began.
    pub(super) swept: u64,
    /// Tags of purges that have begun: how many of each.
    held: HashMap<TagHash, usize>,
    /// Of several tags together.
    held_joints: Vec<Box<[TagHash]>>,
    /// Tags, and when a fill must begin to be stored.
    held_off: HashMap<TagHash, Instant>,
    /// Of several tags together.
    held_off_joints: Vec<(Box<[TagHash]>, Instant)>,
    /// When any fill must begin to be stored.
    all_held_off: Option<Instant>,
}

/// When a tag was purged; an epoch of zero is never.
#[derive(Debug, Clone, Default)]
struct Mark {
    hard: u64,
    /// The epochs of soft purges, with their times, the oldest first: what was born between two counts from the second.
    soft: Vec<(u64, Instant)>,
}

/// The most soft purges of a tag that are told apart.
const MAX_SOFT: usize = 8;

#[derive(Debug)]
struct Joint {
    others: Box<[TagHash]>,
    mark: Mark,
}

/// How many there are, not which.
impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks")
            .field("marks", &self.len())
            .field("floor", &self.floor)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl Mark {
    fn set(&mut self, force: Force, epoch: u64) {
        match force {
            Force::Hard => self.hard = epoch,
            Force::Soft(at) => self.soft.push((epoch, at)),
        }
        if self.soft.len() > MAX_SOFT {
            // What was born before the second counts from the first: it is stale for no longer than it may be.
            self.soft[1].1 = self.soft[0].1;
            self.soft.remove(0);
        }
    }

    fn newest(&self) -> u64 {
        let soft = self.soft.last().map_or(0, |(epoch, _)| *epoch);
        self.hard.max(soft)
    }

    fn verdict(&self, born: u64) -> Verdict {
        if self.hard > born {
            return Verdict::Purged;
        }
        let after = self.soft.iter().find(|(epoch, _)| *epoch > born);
        after.map_or(Verdict::Current, |(_, since)| Verdict::Stale(*since))
    }
}

impl Verdict {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Purged, _) | (_, Self::Purged) => Self::Purged,
            (Self::Stale(a), Self::Stale(b)) => Self::Stale(a.min(b)),
            (Self::Stale(since), Self::Current) | (Self::Current, Self::Stale(since)) => {
                Self::Stale(since)
            }
            (Self::Current, Self::Current) => Self::Current,
        }
    }
}

impl Marks {
    pub(super) fn swept_at(epoch: u64) -> Self {
        Self {
            swept: epoch,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        let joints: usize = self.joints.values().map(Vec::len).sum();
        self.at.len() + joints + usize::from(self.of_everything.newest() > 0)
    }

    pub(super) fn insert(&mut self, targets: &Targets, force: Force, epoch: u64) {
        if self.len() == 0 {
            self.oldest = epoch;
        }
        for tag in &targets.any {
            self.at.entry(*tag).or_default().set(force, epoch);
            self.note_recent(*tag, epoch);
        }
        for joint in &targets.all {
            if let [first, others @ ..] = &**joint {
                self.join(*first, others, force, epoch);
                self.note_recent(*first, epoch);
            }
        }
        if targets.everything {
            match force {
                Force::Hard => self.raise_floor(epoch),
                Force::Soft(_) => self.of_everything.set(force, epoch),
            }
        }
    }

    fn note_recent(&mut self, tag: TagHash, epoch: u64) {
        if self.recent.len() == MAX_RECENT
            && let Some((forgotten, _)) = self.recent.pop_front()
        {
            self.recent_after = forgotten;
        }
        self.recent.push_back((epoch, tag));
    }

    fn join(&mut self, first: TagHash, others: &[TagHash], force: Force, epoch: u64) {
        let joints = self.joints.entry(first).or_default();
        let known = joints.iter_mut().find(|joint| *joint.others == *others);
        if let Some(known) = known {
            known.mark.set(force, epoch);
        } else if joints.len() < MAX_JOINTS {
            let mut mark = Mark::default();
            mark.set(force, epoch);
            joints.push(Joint {
                others: others.into(),
                mark,
            });
        } else {
            self.at.entry(first).or_default().set(force, epoch);
        }
    }

    /// As [`verdict`](Self::verdict), for a response of which the marks up to an epoch were considered before. Its tags are sorted.
    pub(super) fn verdict_since(&self, seen: u64, born: u64, tags: &[TagHash]) -> Verdict {
        if born < self.floor || seen < self.recent_after {
            return self.verdict(born, tags);
        }
        let first = self.recent.partition_point(|(epoch, _)| *epoch <= seen);
        let is_marked = |(_, tag): &(u64, TagHash)| tags.binary_search(tag).is_ok();
        if self.recent.len() - first >= tags.len() || self.recent.range(first..).any(is_marked) {
            return self.verdict(born, tags);
        }
        self.of_everything.verdict(born)
    }

    /// What becomes of a response of this birth, with these tags.
    pub(super) fn verdict(&self, born: u64, tags: &[TagHash]) -> Verdict {
        if born < self.floor {
            return Verdict::Purged;
        }
        let mut verdict = self.of_everything.verdict(born);
        if self.at.is_empty() && self.joints.is_empty() {
            return verdict;
        }
        for tag in tags {
            if let Some(mark) = self.at.get(tag) {
                verdict = verdict.and(mark.verdict(born));
            }
            for joint in self.joints.get(tag).into_iter().flatten() {
                if joint.others.iter().all(|other| tags.contains(other)) {
                    verdict = verdict.and(joint.mark.verdict(born));
                }
            }
            if verdict == Verdict::Purged {
                break;
            }
        }
        verdict
    }

    fn raise_floor(&mut self, floor: u64) {
        self.floor = floor;
        self.retain_above(floor);
    }

    /// A purge of many tags is one epoch, so that more than half may go; never fewer.
    pub(super) fn raise_floor_to_half(&mut self) {
        let mut epochs: Vec<u64> = self.newest().collect();
        let half = epochs.len() / 2;
        let (_, &mut median, _) = epochs.select_nth_unstable(half);
        self.raise_floor(median);
    }

    /// No mark is older than this. `None` if there is none.
    pub(super) fn oldest(&self) -> Option<u64> {
        (self.len() > 0).then_some(self.oldest)
    }

    pub(super) fn any_upto(&self, epoch: u64) -> bool {
        self.newest().any(|newest| newest <= epoch)
    }

    pub(super) fn retain_above(&mut self, epoch: u64) {
        self.at.retain(|_, mark| mark.newest() > epoch);
        self.at.shrink_to_fit();
        self.joints.retain(|_, joints| {
            joints.retain(|joint| joint.mark.newest() > epoch);
            !joints.is_empty()
        });
        if self.of_everything.newest() <= epoch {
            self.of_everything = Mark::default();
        }
        self.oldest = self.newest().min().unwrap_or(epoch);
    }

    fn newest(&self) -> impl Iterator<Item = u64> {
        let joints = self.joints.values().flatten().map(|joint| &joint.mark);
        let everything = std::iter::once(&self.of_everything);
        let marks = self.at.values().chain(joints).chain(everything);
        marks.map(Mark::newest).filter(|newest| *newest > 0)
    }
}

/// What is not to be stored for a while.
impl Marks {
    pub(super) fn hold(&mut self, targets: &Targets) {
        for tag in &targets.any {
            *self.held.entry(*tag).or_default() += 1;
        }
        self.held_joints.extend(targets.all.iter().cloned());
    }

    pub(super) fn release(&mut self, targets: &Targets) {
        for tag in &targets.any {
            if let Some(count) = self.held.get_mut(tag) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(tag);
                }
            }
        }
        for released in &targets.all {
            let mut joints = self.held_joints.iter();
            if let Some(at) = joints.position(|joint| joint == released) {
                self.held_joints.swap_remove(at);
            }
        }
    }

    /// Beyond so many as there may be marks, everything is held off: too little is stored, never too much.
    pub(super) fn hold_off(&mut self, targets: &Targets, until: Instant, max: usize) {
        for tag in &targets.any {
            let known = self.held_off.entry(*tag).or_insert(until);
            *known = until.max(*known);
        }
        let joints = targets.all.iter().map(|joint| (joint.clone(), until));
        self.held_off_joints.extend(joints);
        let too_many =
            self.held_off.len() > max || self.held_off_joints.len() > max.min(MAX_JOINTS);
        if targets.everything || too_many {
            let tags = self.held_off.drain().map(|(_, until)| until);
            let joints = self.held_off_joints.drain(..).map(|(_, until)| until);
            let latest = tags.chain(joints).max();
            self.all_held_off = self.all_held_off.max(latest).max(Some(until));
        }
    }

    /// Whether a response with these tags is not to be stored, whose fill began then.
    pub(super) fn holds(&self, began: Instant, tags: &[TagHash]) -> bool {
        let bear = |joint: &[TagHash]| joint.iter().all(|tag| tags.contains(tag));
        let is_held = |tag| self.held.contains_key(tag);
        let is_held_off = |tag| self.held_off.get(tag).is_some_and(|until| began < *until);
        let mut off = self.held_off_joints.iter();
        self.all_held_off.is_some_and(|until| began < until)
            || (!self.held.is_empty() && tags.iter().any(is_held))
            || (!self.held_off.is_empty() && tags.iter().any(is_held_off))
            || self.held_joints.iter().any(|joint| bear(joint))
            || off.any(|(joint, until)| began < *until && bear(joint))
    }

    pub(super) fn holds_off(&self) -> bool {
        !self.held_off.is_empty() || !self.held_off_joints.is_empty() || self.all_held_off.is_some()
    }

    /// Every fill that is in flight or to come begins at or after this.
    pub(super) fn end_hold_offs(&mut self, began: Instant) {
        self.held_off.retain(|_, until| began < *until);
        self.held_off_joints.retain(|(_, until)| began < *until);
        self.all_held_off = self.all_held_off.filter(|until| began < *until);
    }
}
