//! Records a response, and stores it if it comes in whole.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    config::Config,
    entry::{Entry, Head},
    error::BodyError,
    flight::Leader,
    grpc::Messages,
    key::{Identity, KeyBytes},
    policy::Plan,
    recording::Recording,
    shared::{Answer, Told, count},
    status::{Forward, Reason},
    tags::{Birth, CacheScope, Stamp},
};

/// The keys of one request.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The key under which the response is stored.
    pub(crate) key: KeyBytes,
    /// The hash of the key as far as the request's head goes: what a purge by request marks.
    pub(crate) request: u64,
    /// The key by which requests wait for each other: the stored one, with the variant and what sets callers apart.
    pub(crate) flight: KeyBytes,
}

/// What a fill is for, apart from the call itself.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) config: Arc<Config>,
    pub(crate) keys: Keys,
    pub(crate) identity: Identity,
    pub(crate) forward: Forward,
    pub(crate) held: Held,
}

/// What a fill holds while it runs.
#[derive(Debug)]
pub(crate) struct Held {
    /// The flight that waits for the answer, if one does.
    pub(crate) leader: Option<Leader<Answer>>,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// One response on its way into the store. Dropped before its end, it stores nothing, breaks off those who read along,
/// and leaves the lead to one of those who wait.
#[derive(Debug)]
pub(crate) struct Recorder {
    config: Arc<Config>,
    keys: Keys,
    held: Held,
    scope: CacheScope,
    told: Arc<Told>,
    content_length: Option<u64>,
    messages: Option<Messages>,
    store: bool,
    done: bool,
}

/// Whether a body is to be recorded further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    On,
    /// No more: the body goes on to its requester alone.
    Stop,
}

impl Recorder {
    pub(crate) fn new(
        errand: Errand,
        scope: CacheScope,
        birth: Arc<Birth>,
        plan: Plan,
        recording: Arc<Recording>,
        store: bool,
    ) -> Self {
        let Errand {
            config, keys, held, ..
        } = errand;
        let purges = &config.shared.purges;
        let mut tags: Vec<u64> = plan.tags.iter().map(|tag| purges.hash_tag(tag)).collect();
        tags.push(keys.request);
        let told = Arc::new(Told {
            head: Arc::new(plan.head),
            recording,
            tags: tags.into(),
            birth,
        });
        Self {
            config,
            keys,
            held,
            scope,
            told,
            content_length: plan.content_length,
            messages: plan.grpc.then(Messages::default),
            store,
            done: false,
        }
    }

    pub(crate) fn recording(&self) -> &Arc<Recording> {
        &self.told.recording
    }

    /// Lets those who wait read along, if the body's length is known: it is known to fit, too.
    pub(crate) fn let_read_along(&mut self) {
        let known = self.content_length.is_some() || self.told.recording.length_known();
        if let Some(leader) = self.held.leader.as_mut().filter(|_| known) {
            leader.announce(Answer::Told(self.told.clone()));
        }
    }

    /// The next data of the body. After `Stop` it is in the recording, and nothing more may be pushed.
    pub(crate) fn data(&mut self, data: &Bytes) -> Record {
        let follows_on = self
            .messages
            .as_mut()
            .is_none_or(|messages| messages.push(data));
        self.told.recording.push(data.clone());
        if !follows_on {
            self.refuse(Reason::GrpcStatus);
            return Record::Stop;
        }
        if self.told.recording.bytes() > self.config.policy.max_body_bytes {
            self.refuse(Reason::TooLarge);
            return Record::Stop;
        }
        Record::On
    }

    /// The body takes longer than a fill may: it is not stored any more, and nobody joins it.
    pub(crate) fn overdue(&mut self) {
        self.store = false;
        self.held.permit = None;
        if let Some(leader) = self.held.leader.take() {
            leader.give_up();
        }
    }

    /// The body's requester goes on with the body itself.
    pub(crate) fn hand_over(mut self) {
        self.done = true;
        self.told.recording.hand_over();
    }

    pub(crate) fn broken(mut self, error: BodyError) {
        self.done = true;
        self.told.recording.break_off(error);
        if let Some(leader) = self.held.leader.take() {
            leader.fail();
        }
    }

    /// The body has come to its end.
    pub(crate) fn finish(mut self, trailers: Option<HeaderMap>) {
        self.done = true;
        let bytes = self.told.recording.bytes() as u64;
        // Shorter or longer than announced: nobody knows what is missing.
        let cut_short = self
            .content_length
            .is_some_and(|announced| announced != bytes);
        let call_failed = self
            .messages
            .as_ref()
            .is_some_and(|messages| !messages.succeeded(trailers.as_ref()));
        self.told.recording.finish(trailers.clone());
        let leader = self.held.leader.take();
        if cut_short || call_failed {
            leader.into_iter().for_each(Leader::fail);
        } else if self.scope.was_late() {
            // The tags are not all known, so that nobody can say whether this was purged.
            self.config
                .shared
                .refusals
                .remember(&self.keys.flight, Reason::LateScope);
            leader
                .into_iter()
                .for_each(|leader| leader.land(Answer::Refused));
        } else {
            if self.store {
                self.put(trailers);
            }
            // Stored first, so that who comes now finds either the flight or the entry.
            leader
                .into_iter()
                .for_each(|leader| leader.land(Answer::Told(self.told.clone())));
        }
    }

    fn put(&self, trailers: Option<HeaderMap>) {
        let shared = &self.config.shared;
        let born = self.told.birth.at();
        if !shared.purges.is_current(born, &self.told.tags) {
            return;
        }
        let recording = &self.told.recording;
        let entry = Entry::new(
            Head::clone(&self.told.head),
            recording.to_bytes(),
            trailers,
            recording.length_known(),
            Stamp::new(born, self.told.tags.clone()),
            self.keys.key.len(),
        );
        if shared.memory.fits(&entry) {
            shared.memory.put(&self.keys.key, entry);
            shared.refusals.forget(&self.keys.flight);
            count(&shared.counters.stored);
        }
    }

    fn refuse(&mut self, reason: Reason) {
        self.config
            .shared
            .refusals
            .remember(&self.keys.flight, reason);
        if let Some(leader) = self.held.leader.take() {
            leader.land(Answer::Refused);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.done {
            self.told.recording.break_off(BodyError::cut_short());
        }
        self.config.shared.sweep_soon();
    }
}
