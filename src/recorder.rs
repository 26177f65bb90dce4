//! Records a response, and stores it if it comes in whole.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header, response};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    anew::Anew,
    caught::catch,
    config::Config,
    entry::{Asked, Entry, Recorded, shared_trailers},
    error::BodyError,
    events::{self, Limit},
    flight::{Leader, Opinion},
    grpc::{self, Ending, Messages, is_grpc},
    key::{Fragment, Identity, KeyBytes, Reach},
    mutant::Mutant,
    pinned::Pinned,
    policy::{BodyTag, Plan},
    recording::{Invitation, Recording, Window},
    renewal::Renewal,
    shared::{self, InFlight, Keyed, Told, count},
    status::{Forward, Reason},
    store::Replaces,
    tags::{CacheScope, Part, Presence, Stamp, TagHash, TagNames, Tags},
};

/// The keys of one request.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The key under which the response is stored.
    pub(crate) key: KeyBytes,
    /// The hash of the key as far as the request's head goes: what a purge by request marks.
    pub(crate) request: u64,
    /// The hash of the request's target: what an unsafe request to the same marks.
    pub(crate) target: u64,
    /// The hash of the target without its query: what a purge of all queries marks.
    pub(crate) all_queries: u64,
    /// Where the response may say what of the query matters.
    pub(crate) searched: Option<Searched>,
    /// Which fragment of a page the response is.
    pub(crate) fragment: Fragment,
    /// The key by which requests wait for each other: the stored one, with the variant and what sets callers apart.
    pub(crate) flight: KeyBytes,
}

/// What the key is made of again, when the response has said what of the query matters.
#[derive(Debug, Clone)]
pub(crate) struct Searched {
    /// The key under which it was looked for.
    pub(crate) found: KeyBytes,
    /// The key with all of the query.
    pub(crate) exact: KeyBytes,
    pub(crate) reach: Reach,
    pub(crate) query: Option<Box<str>>,
    /// The request's target without its query.
    pub(crate) path: KeyBytes,
}

/// What a fill is for, apart from the call itself.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) config: Arc<Config>,
    pub(crate) keys: Keys,
    pub(crate) identity: Identity,
    pub(crate) forward: Forward,
    pub(crate) audience: Audience,
    /// What the inner service is asked whether it has changed.
    pub(crate) asked_for: Option<Arc<Pinned>>,
    /// The request is a HEAD, whose answer has no body to store.
    pub(crate) is_head: bool,
    /// What a HEAD may say that it has changed.
    pub(crate) told_of: Option<Arc<Pinned>>,
    /// How it can be asked again.
    pub(crate) asked: Option<(Asked, Arc<dyn Keyed>)>,
    /// Told when the answer is stored.
    pub(crate) anew: Option<Anew>,
    /// Tags that it has whatever is said of it.
    pub(crate) known_tags: Tags,
    /// It is part of another fill, which has to hear of it.
    pub(crate) is_nested: bool,
    /// What that takes over from it, once it is evaluated.
    pub(crate) part: Option<Part>,
    /// What purges mark of the responses that it is made of, and of what it renews.
    pub(crate) inherited: Vec<TagHash>,
    /// Held until the response holds them itself.
    pub(crate) inherited_presence: Option<Presence>,
    /// The inner service has said that what is stored is what it would answer.
    pub(crate) is_not_modified: bool,
    /// The request is a POST, whose answer a GET may have.
    pub(crate) is_post: bool,
    pub(crate) held: Held,
}

impl Errand {
    /// The targets by which unsafe requests may invalidate the answer: its own, and its path where it may be for many queries.
    pub(crate) fn targets(&self) -> Vec<u64> {
        let searched = self.keys.searched.as_ref();
        let path = searched.map(|searched| self.config.path_hash(&searched.path));
        std::iter::once(self.keys.target).chain(path).collect()
    }
}

/// For whom a fill is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    Requester,
    /// A requester that will rather have what is stored than a failure, or that takes another leader's answer if that comes first.
    FallsBack,
    /// For those to come.
    Nobody,
}

impl Audience {
    pub(crate) fn of(falls_back: bool) -> Self {
        if falls_back {
            Self::FallsBack
        } else {
            Self::Requester
        }
    }
}

/// What a fill holds while it runs.
#[derive(Debug)]
pub(crate) struct Held {
    /// What is to be renewed, if there is something. Settled before those who wait are told: they look at it.
    pub(crate) renewal: Option<Renewal>,
    /// The flight that waits for the answer, if one does.
    pub(crate) leader: Option<Leader<shared::Answer>>,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(crate) fn is_second_opinion(&mut self) -> bool {
        self.leader
            .as_mut()
            .is_some_and(|leader| leader.opinion() == Opinion::Second)
    }

    /// What is stored is not renewed.
    pub(crate) fn put_off(&mut self) {
        self.renewal.take().into_iter().for_each(Renewal::fail);
    }

    pub(crate) fn fail(&mut self) {
        self.put_off();
        self.leader.take().into_iter().for_each(Leader::fail);
    }

    /// There is an answer, which is not stored.
    pub(crate) fn rest(&mut self) {
        self.renewal.take().into_iter().for_each(Renewal::rest);
    }

    /// There is no answer for those who wait: one of them takes the lead.
    pub(crate) fn hand_over(&mut self) {
        self.rest();
        self.leader = None;
    }

    pub(crate) fn refuse(&mut self) {
        self.rest();
        self.leader
            .take()
            .into_iter()
            .for_each(|leader| leader.land(shared::Answer::Refused));
    }
}

/// An answer whose head is known, and which is to be recorded.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) scope: CacheScope,
    pub(crate) in_flight: InFlight,
    pub(crate) plan: Plan,
    pub(crate) tags: Box<[u64]>,
    pub(crate) recorded: Option<Box<Recorded>>,
    pub(crate) recording: Arc<Recording>,
    /// The head as the inner service sent it, if `store_if` asks for it.
    pub(crate) original: Option<Box<response::Parts>>,
    /// Whether it is stored, too.
    pub(crate) store: bool,
    /// The budget has no room for it.
    pub(crate) unrecorded: bool,
}

/// One response on its way into the store. Dropped before its end, it stores nothing, breaks off those who read along,
/// and leaves the lead to one of those who wait.
#[derive(Debug)]
pub(crate) struct Recorder {
    config: Arc<Config>,
    keys: Keys,
    held: Held,
    scope: CacheScope,
    recording: Arc<Recording>,
    told: Arc<Told>,
    tag_names: TagNames,
    recorded: Option<Box<Recorded>>,
    anew: Option<Anew>,
    /// What `Content-Length` and the body itself said of its length.
    announced: [Option<u64>; 2],
    messages: Option<Messages>,
    original: Option<Box<response::Parts>>,
    store: bool,
    /// What is stored already, and under which key, of which it is the newer state.
    renewed: Option<(KeyBytes, Arc<Entry>)>,
    /// Nobody else gets it before it was validated.
    alone: bool,
    /// The budget has no room for it, as was said with its head.
    unrecorded: bool,
    read_along: ReadAlong,
    is_stored: bool,
    done: bool,
}

/// Whether others read a body while it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadAlong {
    No,
    /// As soon as the body makes them wait.
    MayBegin,
    Begun,
}

/// Whether a body is to be recorded further.
#[derive(Debug)]
pub(crate) enum Record {
    On,
    /// No more, from these data on, which were given: the body goes on to those who read it.
    Stop(Bytes),
}

impl Recorder {
    pub(crate) fn new(errand: Errand, answer: Answer) -> Self {
        let plan = answer.plan;
        let (status, headers) = (plan.head.status, &plan.head.headers);
        let failed = !answer.store && errand.config.policy.is_failure(status, headers);
        let announced = [plan.content_length, answer.recording.exact_length()];
        let told = Arc::new(Told {
            head: plan.head,
            recording: Invitation::to(&answer.recording),
            tags: answer.tags,
            request: errand.keys.request,
            in_flight: answer.in_flight,
            failed,
        });
        Self {
            config: errand.config,
            keys: errand.keys,
            held: errand.held,
            anew: errand.anew,
            scope: answer.scope,
            recording: answer.recording,
            told,
            tag_names: TagNames::new(&plan.tags),
            recorded: answer.recorded,
            announced,
            messages: plan.grpc.then(Messages::default),
            original: answer.original,
            store: answer.store,
            renewed: None,
            alone: plan.alone,
            unrecorded: answer.unrecorded,
            read_along: ReadAlong::No,
            is_stored: false,
            done: false,
        }
    }

    pub(crate) fn recording(&self) -> &Arc<Recording> {
        &self.recording
    }

    /// Gives up its place among the fills: from now on it is its requester who takes the time.
    pub(crate) fn give_up_place(&mut self) {
        self.held.permit = None;
    }

    /// Others may read along from now on, since it is not its requester who records. Of a gRPC call they do not: whether it went well is
    /// known at its end.
    pub(crate) fn allow_read_along(&mut self) {
        if self.messages.is_none() {
            self.read_along = ReadAlong::MayBegin;
        }
    }

    /// The body is not there at once: those who wait for the response get it now, and read along. A response that is made of others
    /// waits until these are known, since it may turn out to be for its requester alone. So does one of which something was said
    /// after its head: what it depends on is not known.
    pub(crate) fn let_read_along(&mut self) {
        if self.read_along != ReadAlong::MayBegin || !self.scope.is_known() {
            return;
        }
        if let Some(leader) = &mut self.held.leader {
            leader.announce(shared::Answer::Told(self.told.clone()));
            self.read_along = ReadAlong::Begun;
        }
    }

    /// How long more of the body is waited for before it is taken for a stream.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.messages.as_ref().and_then(Messages::patience)
    }

    /// The body is a stream: its followers are released, and it is remembered.
    pub(crate) fn is_a_stream(&mut self) {
        self.refuse(Reason::GrpcStream);
    }

    /// Whether the budget has no room for the body, as was said with its head: then nothing of it is recorded.
    pub(crate) fn is_out_of_budget(&mut self) -> bool {
        if self.unrecorded {
            self.exceed_budget();
        }
        self.unrecorded
    }

    /// The next data of the body. After `Stop` they are not in the recording, and nothing more may be given. The last are
    /// told with the end: by then the response is stored, so that who has it all and asks again finds it.
    pub(crate) fn data(&mut self, data: Bytes, is_last: bool) -> Record {
        let follows_on = self
            .messages
            .as_mut()
            .is_none_or(|messages| messages.push(&data));
        if !follows_on {
            self.refuse(Reason::GrpcStream);
            return Record::Stop(data);
        }
        if self.is_out_of_budget() {
            return Record::Stop(data);
        }
        let length = self.recording.bytes().saturating_add(data.len());
        if length > self.config.policy.max_body_bytes {
            let refusals = &self.config.shared.refusals;
            refusals.remember(&self.keys.flight, Reason::TooLarge);
            self.settle();
            return Record::Stop(data);
        }
        if !is_last && !self.store && self.completes(&data) {
            self.close();
        }
        let added = if is_last {
            self.recording.hold_back(data)
        } else {
            self.recording.push(data)
        };
        match added {
            Ok(()) => Record::On,
            Err(data) => {
                self.exceed_budget();
                Record::Stop(data)
            }
        }
    }

    /// Nothing is remembered of it: the next one may find room.
    fn exceed_budget(&mut self) {
        self.config.shared.budget.count_exceeded();
        self.config.shared.limits.reached(Limit::Recordings);
        self.settle();
    }

    /// There is an answer, and it is not stored. From now on the time is that of those who read.
    fn settle(&mut self) {
        self.store = false;
        self.anew.iter().for_each(Anew::refused);
        self.held.permit = None;
        self.held.rest();
    }

    /// The body takes longer than a fill may: it is not stored any more, and nobody joins it.
    pub(crate) fn overdue(&mut self) {
        self.anew.iter().for_each(Anew::refused);
        self.do_not_store(Reason::FillTimeout);
        self.held.permit = None;
        self.held.put_off();
        // The next ones need not wait for as long.
        let refusals = &self.config.shared.refusals;
        refusals.remember(&self.keys.flight, Reason::FillTimeout);
        if self.read_along == ReadAlong::No
            && let Some(leader) = self.held.leader.take()
        {
            leader.give_up();
        }
    }

    /// Ends the recording before the body has ended. Nobody joins any more; those who have read so far, and those who wait, go on
    /// through a window. `None` if there are none but its requester, who goes on with the body itself.
    pub(crate) fn stop(mut self: Box<Self>) -> Option<Window> {
        if self.read_along == ReadAlong::No {
            self.hand_over();
            return None;
        }
        if self.read_along == ReadAlong::MayBegin && !self.scope.is_known() {
            // Nobody else may have it: one of those who wait takes the lead.
            self.done = true;
            self.held.fail();
            self.recording.hand_over();
            return None;
        }
        self.done = true;
        if let Some(leader) = self.held.leader.take() {
            leader.land(shared::Answer::Told(self.told.clone()));
        }
        let recording = self.recording.clone();
        let max_bytes = self.config.policy.max_body_bytes;
        let stall_timeout = self.config.waiting.stall_timeout;
        // With what it was to tell others: those who wait have that by now.
        drop(self);
        Window::on(recording, max_bytes, stall_timeout)
    }

    /// The body's requester goes on with the body itself.
    pub(crate) fn hand_over(mut self) {
        self.done = true;
        self.held.refuse();
        self.recording.hand_over();
    }

    pub(crate) fn broken(mut self, error: BodyError) {
        self.done = true;
        // Unlinked first: a request that comes after its requester was told of the break joins nothing.
        self.held.fail();
        self.recording.break_off(error);
    }

    /// Records what is stored already, under the key at which it was found: it is stored anew, in place of that. Returns whether it is.
    pub(crate) fn renew(mut self, stored: &Arc<Entry>, found: KeyBytes) -> bool {
        self.renewed = Some((found, stored.clone()));
        if let Some(messages) = &mut self.messages {
            messages.push(&stored.body);
        }
        self.recording.hold_back_stored(&stored.body);
        self.end(stored.trailers.as_deref().cloned());
        self.is_stored
    }

    /// The body has come to its end.
    pub(crate) fn finish(mut self, trailers: Option<HeaderMap>) {
        self.end(trailers);
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.done = true;
        let cut_short = !self.is_as_long_as_announced();
        let messages = self.messages.as_ref();
        let ending = messages.map_or(Ending::Succeeded, |messages| {
            messages.ending(trailers.as_ref())
        });
        let refused = match ending {
            Ending::Refused(code) => self.store_for_at_most(code),
            _ => None,
        };
        let call_failed = match ending {
            Ending::Failed => !self.shares_failure(),
            Ending::Broken => true,
            Ending::Succeeded | Ending::Refused(_) => false,
        };
        // The tags are not all known, so that nobody can say whether it was purged.
        let late = self.scope.was_late();
        let mutants = &self.config.shared.purges.mutants;
        let is_known = self.scope.knows_its_parts() || mutants.has(Mutant::UnknownPartsStored);
        self.scope.end();
        let failed = cut_short || call_failed || !is_known;
        if self.store && !failed && refused.is_none() && !late {
            // Stored before the end is told and the flight is over: who asks then finds the one or the other.
            if self.put(trailers.clone()) {
                self.held
                    .renewal
                    .take()
                    .into_iter()
                    .for_each(Renewal::succeed);
            }
        }
        if !failed && !self.told.failed {
            self.held.rest();
        }
        self.held.put_off();
        // Unlinked before the end can be read: a request that comes after its requester has read all of it joins nothing.
        if failed {
            self.held.fail();
        } else if late {
            self.refuse(Reason::LateScope);
        } else if let Some(reason) = refused {
            self.refuse(reason);
        } else if let Some(leader) = self.held.leader.take() {
            leader.land(shared::Answer::Told(self.told.clone()));
        }
        self.recording.finish(trailers);
    }

    /// Whether these data bring the body to its announced length. Readers may take it for whole then, without waiting for its end.
    fn completes(&self, data: &Bytes) -> bool {
        let bytes = (self.recording.bytes() + data.len()) as u64;
        self.announced
            .iter()
            .flatten()
            .any(|&length| length <= bytes)
    }

    /// Nobody joins any more. Those who wait already still get what is published.
    fn close(&mut self) {
        self.held.leader.iter().for_each(Leader::unlink);
    }

    /// A call that ended with a status that speaks of the request is stored for as long as was chosen for that status at most.
    /// Returns why it is not, if none was chosen.
    fn store_for_at_most(&mut self, code: u32) -> Option<Reason> {
        let Some(ttl) = self.config.policy.ttl_of_code(code) else {
            return Some(Reason::GrpcStatus);
        };
        // Such a response has not been announced: nobody else holds it.
        let Some(told) = Arc::get_mut(&mut self.told) else {
            return Some(Reason::GrpcStatus);
        };
        told.head.ttl = told.head.ttl.min(ttl);
        None
    }

    /// Whether the followers get this failure of a call, since it is the second one. It is not stored.
    fn shares_failure(&mut self) -> bool {
        let is_second = self.held.is_second_opinion();
        match Arc::get_mut(&mut self.told) {
            Some(told) if is_second => {
                told.failed = true;
                self.store = false;
                true
            }
            _ => false,
        }
    }

    /// Shorter or longer than announced, nobody knows what is missing.
    fn is_as_long_as_announced(&self) -> bool {
        let bytes = self.recording.bytes() as u64;
        let mut announced = self.announced.iter().flatten();
        announced.all(|&length| length == bytes)
    }

    /// Whether it is stored.
    fn put(&mut self, trailers: Option<HeaderMap>) -> bool {
        let shared = &self.config.shared;
        let birth = self.told.in_flight.birth();
        if !shared.purges.may_store(birth, &self.told.tags) {
            shared.counters.reasons.count(Reason::Purged);
            return false;
        }
        let recording = &self.recording;
        let policy = &self.config.policy;
        let (mut head, body) = (self.told.head.clone(), recording.to_bytes());
        if self.scope.is_refused() || !self.is_accepted(&body) {
            self.scope.refuse();
            shared.counters.reasons.count(Reason::StoreIf);
            events::not_stored(Reason::StoreIf, None);
            return false;
        }
        // How a gRPC call ended is no part of what a tag names.
        let is_call = self.messages.is_some() || is_grpc(&head.headers);
        if let Some(kind) = policy.etag_from_body.filter(|_| !is_call) {
            head.name_by(&body, kind == BodyTag::Weak);
        }
        let entry = Entry::new(
            head,
            body,
            trailers.map(|trailers| shared_trailers(&trailers, &self.told.head.kept_back)),
            recording.exact_length().is_some(),
            Stamp::of(birth, self.told.tags.clone()),
            self.tag_names.clone(),
            self.keys.key.len(),
        )
        .succeeding(self.renewed.as_ref().map(|(_, renewed)| &**renewed))
        .kept_by(&self.config.in_use, policy.keeping())
        .recorded(self.recorded.take());
        let now = Instant::now();
        let useful_for = entry.useful_for(now);
        let fits = shared.memory.fits(&entry);
        if !fits {
            shared.counters.reasons.count(Reason::TooLarge);
        }
        if fits && let Some(replaces) = self.replaces() {
            let memory = &shared.memory;
            memory.put(&self.keys.key, entry, replaces, policy.max_variants);
            self.is_stored = true;
            shared.expiry.note(now, useful_for.unwrap_or_default());
            shared.expire_in_time();
            if !self.alone {
                shared.refusals.forget(&self.keys.flight);
            }
            count(&shared.counters.stored);
            events::stored(self.told.head.status, recording.bytes(), self.told.head.ttl);
            self.anew.iter().for_each(Anew::stored);
        }
        fits
    }

    /// Whether the application's `store_if` takes the complete response. If it panics, that is remembered with its reason.
    fn is_accepted(&self, body: &[u8]) -> bool {
        let (Some(store_if), Some(head)) = (&self.config.policy.store_if, &self.original) else {
            return true;
        };
        let is_call = self.messages.is_some();
        let message = is_call.then(|| grpc::one_message(body)).flatten();
        let body = message.map_or(body, |(_, message)| message);
        catch(|| store_if(head, body)).unwrap_or_else(|_| {
            let refusals = &self.config.shared.refusals;
            refusals.remember(&self.keys.flight, Reason::StoreIfPanicked);
            false
        })
    }

    /// What is stored already, and is not any more when this is. `None` if this is not to be stored: it is the newer state of what has
    /// been replaced or withdrawn meanwhile.
    fn replaces(&self) -> Option<Replaces<'_>> {
        let memory = &self.config.shared.memory;
        if let Some((found, renewed)) = &self.renewed {
            if *found == self.keys.key {
                return Some(Replaces::Itself(renewed));
            }
            // It is for other queries than it was.
            let is_there = memory.take(found, renewed) && !renewed.attempts.are_over();
            return is_there.then_some(Replaces::Nothing);
        }
        // RFC 9111 §4.3.3: what was asked about, and is answered with a whole response, is replaced by that.
        let Some(asked_about) = self.held.renewal.as_ref().map(Renewal::entry) else {
            return Some(Replaces::Nothing);
        };
        let searched = self.keys.searched.as_ref();
        let found = searched.map(|searched| &searched.found);
        if let Some(found) = found.filter(|found| **found != self.keys.key) {
            memory.take(found, asked_about);
        }
        Some(Replaces::Older(asked_about))
    }

    /// It is found only now that the response is not stored.
    fn do_not_store(&mut self, reason: Reason) {
        if std::mem::take(&mut self.store) {
            self.config.shared.counters.reasons.count(reason);
        }
    }

    fn refuse(&mut self, reason: Reason) {
        self.anew.iter().for_each(Anew::refused);
        events::not_stored(reason, None);
        self.do_not_store(reason);
        self.config
            .shared
            .refusals
            .remember(&self.keys.flight, reason);
        self.held.refuse();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Some readers stop at the last announced byte, without asking whether more comes; not if trailers are to come.
        let trailers_follow = self.told.head.headers.contains_key(header::TRAILER);
        let length_known = self.announced.iter().any(Option::is_some);
        let all_came = length_known && self.is_as_long_as_announced();
        if all_came && !trailers_follow && self.messages.is_none() && !std::thread::panicking() {
            self.end(None);
        } else {
            // In this order: followers look at the renewal, and nobody joins a flight whose end can be read.
            drop(self.held.renewal.take());
            drop(self.held.leader.take());
            self.recording.break_off(BodyError::cut_short());
        }
    }
}
