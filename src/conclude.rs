//! What becomes of the inner service's answer when its head is known.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, response};
use http_body::{Body, SizeHint};
use tokio::time::Instant;

use crate::{
    body::ResponseBody,
    caught::Panic,
    entry::{Entry, Recorded},
    mutant::Mutant,
    pinned::Pinned,
    policy::{Candidate, Plan, Verdict},
    recorder::{Answer, Audience, Errand, Recorder},
    recording::Recording,
    renewal::Renewal,
    reply,
    shared::{InFlight, count},
    status::{CacheStatus, Reason},
    tags::{CacheScope, Tags},
};

/// What a call of the inner service came to: when it was born, and its response.
pub(crate) type Called<B, E> = Result<(InFlight, Response<B>), E>;

/// What is known of the request once it has gone to the inner service.
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) as_asked: Option<HeaderMap>,
    pub(crate) tags: Tags,
}

/// What became of a call.
pub(crate) enum Concluded<B, E> {
    Passed(Response<ResponseBody<B>>),
    Recorded {
        head: Response<()>,
        recorder: Box<Recorder>,
        body: B,
    },
    Failed(E),
    Panicked(Panic),
}

impl Errand {
    /// Tells those who wait, if they need not wait any more.
    pub(crate) fn conclude<B: Body, E>(
        mut self,
        (called, in_time): (Result<Called<B, E>, Panic>, bool),
        asked: Asked,
        scope: CacheScope,
    ) -> Concluded<B, E> {
        match called {
            Ok(Ok((in_flight, response))) if in_time => {
                self.judge(asked, scope, in_flight, response)
            }
            Ok(Ok((_, response))) => Concluded::Passed(self.passed(response, Reason::FillTimeout)),
            Ok(Err(error)) => {
                self.held.fail();
                Concluded::Failed(error)
            }
            Err(panic) => {
                self.held.fail();
                Concluded::Panicked(panic)
            }
        }
    }

    fn judge<B: Body, E>(
        mut self,
        mut asked: Asked,
        scope: CacheScope,
        in_flight: InFlight,
        response: Response<B>,
    ) -> Concluded<B, E> {
        let (mut parts, body) = response.into_parts();
        if parts.status == StatusCode::NOT_MODIFIED
            && let Some(asked_for) = self.asked_for.take()
        {
            return Concluded::Passed(
                self.not_modified(asked, scope, in_flight, &asked_for, parts),
            );
        }
        let hint = body.size_hint();
        let (plan, reason) = match self.verdict(&mut asked, &scope, &parts, &hint, None) {
            Verdict::Store(plan) => (plan, None),
            Verdict::Share(plan, reason) => (plan, Some(reason)),
            Verdict::Failed(Some(plan)) if self.held.is_second_opinion() => {
                (plan, Some(Reason::Status))
            }
            Verdict::Failed(_) => {
                self.held.fail();
                let response = Response::from_parts(parts, body);
                return Concluded::Passed(self.passed(response, Reason::Status));
            }
            Verdict::Keep(reason) => {
                self.keep(&parts, reason);
                let response = Response::from_parts(parts, body);
                return Concluded::Passed(self.passed(response, reason));
            }
        };
        self.config.policy.strip(&mut parts.headers);
        let (head, recorder) = self.recorded(
            &asked.headers,
            scope,
            in_flight,
            (plan, reason),
            parts,
            hint,
        );
        Concluded::Recorded {
            head,
            recorder: Box::new(recorder),
            body,
        }
    }

    /// The answer's head as its requester gets it, and what records its body.
    fn recorded(
        mut self,
        headers: &HeaderMap,
        scope: CacheScope,
        in_flight: InFlight,
        (plan, reason): (Plan, Option<Reason>),
        head: response::Parts,
        hint: SizeHint,
    ) -> (Response<()>, Recorder) {
        let tags = self.hashes(&plan);
        let reason = reason.or_else(|| self.held_off(&in_flight, &tags));
        let head = self.labelled(Response::from_parts(head, ()), reason);
        let selection = &self.config.selection;
        let recorded = self.asked.take().map(|asked| {
            let headers = selection.recorded_headers(headers, plan.head.vary.names());
            Box::new(Recorded::new(asked, &headers))
        });
        let answer = Answer {
            scope,
            in_flight,
            plan,
            tags,
            recorded,
            recording: Recording::new(hint),
            store: reason.is_none(),
        };
        (head, Recorder::new(self, answer))
    }

    /// The inner service says that what is stored is still what it would answer: it is stored anew, with what the 304 says of
    /// it (RFC 9111 §4.3.4). Its requester, and those who wait, get the whole of it.
    fn not_modified<B>(
        mut self,
        mut asked: Asked,
        scope: CacheScope,
        in_flight: InFlight,
        pinned: &Pinned,
        not_modified: response::Parts,
    ) -> Response<ResponseBody<B>> {
        let stored = pinned.entry();
        let is_same = stored.head.is_named_by(&not_modified.headers);
        let mut parts = stored.head.updated_by(not_modified);
        let mut hint = SizeHint::new();
        if stored.length_known {
            hint.set_exact(stored.body.len() as u64);
        }
        let verdict = self.verdict(&mut asked, &scope, &parts, &hint, Some(stored));
        self.config.policy.strip(&mut parts.headers);
        let plan = match verdict {
            Verdict::Store(plan) if is_same => Ok((plan, None)),
            Verdict::Share(plan, reason) if is_same => Ok((plan, Some(reason))),
            Verdict::Keep(reason) => Err(reason),
            // Of another response than the one that was asked for: this requester has to make do with it.
            _ => Err(Reason::Status),
        };
        // What was purged since it was found is old, whatever the inner service says of it.
        let purges = &self.config.shared.purges;
        let is_valid = pinned.is_valid() || purges.mutants.has(Mutant::RenewedThoughPurged);
        let (plan, reason) = match plan {
            Ok(plan) if is_valid => plan,
            plan => {
                let reason = plan.err().unwrap_or(Reason::NotShared);
                self.keep(&parts, reason);
                let head = self.labelled(Response::from_parts(parts, ()), Some(reason));
                return head.map(|()| ResponseBody::stored(stored));
            }
        };
        let (head, mut recorder) = self.recorded(
            &asked.headers,
            scope,
            in_flight,
            (plan, reason),
            parts,
            hint,
        );
        let reader = recorder.recording().reader();
        if !stored.body.is_empty() {
            recorder.data(&stored.body, true);
        }
        recorder.finish(stored.trailers.as_deref().cloned());
        head.map(|()| ResponseBody::followed(reader))
    }

    fn verdict(
        &self,
        asked: &mut Asked,
        scope: &CacheScope,
        response: &response::Parts,
        body: &SizeHint,
        renewed: Option<&Arc<Entry>>,
    ) -> Verdict {
        self.config.policy.judge(Candidate {
            identity: self.identity,
            selection: &self.config.selection,
            request_headers: &asked.headers,
            headers_as_asked: asked.as_asked.as_ref().unwrap_or(&asked.headers),
            request_tags: std::mem::take(&mut asked.tags),
            renewed_tags: renewed.map(|entry| &entry.tag_names),
            response,
            gathered: scope.close(),
            body,
            received: Instant::now(),
        })
    }

    /// What is marked when the response is purged: its tags, and its request.
    fn hashes(&self, plan: &Plan) -> Box<[u64]> {
        let purges = &self.config.shared.purges;
        let tags = plan.tags.iter().map(|tag| purges.hash_tag(tag));
        tags.chain([self.keys.request]).collect()
    }

    fn held_off(&self, in_flight: &InFlight, tags: &[u64]) -> Option<Reason> {
        let purges = &self.config.shared.purges;
        let held = purges.holds(in_flight.birth(), tags);
        held.then_some(Reason::HeldOff)
    }

    /// The answer's head as its requester gets it.
    fn labelled(&self, mut head: Response<()>, reason: Option<Reason>) -> Response<()> {
        let mut status = CacheStatus::forwarded(self.forward, reason);
        status.stored = reason.is_none();
        self.config.report.label(&mut head, status);
        self.count_answer();
        head
    }

    /// The answer is its requester's alone: who waits for this key need not.
    fn keep(&mut self, response: &response::Parts, reason: Reason) {
        let refusals = &self.config.shared.refusals;
        refusals.remember(&self.keys.flight, reason);
        if self.held.renewal.is_some() && self.config.policy.is_no_more(response) {
            self.end_what_is_stored();
        }
        self.held.refuse();
    }

    /// The answer goes to a requester. One that may rather have what is stored counts it when it does not.
    fn count_answer(&self) {
        if self.audience == Audience::Requester {
            count(&self.config.shared.counters.misses);
        }
    }

    /// What is stored is no more, says the inner service.
    fn end_what_is_stored(&mut self) {
        if let Some(entry) = self.held.renewal.take().map(Renewal::end) {
            let memory = &self.config.shared.memory;
            memory.retain(&self.keys.key, |stored| {
                !std::ptr::eq(stored, &raw const *entry)
            });
        }
    }

    fn passed<B>(&self, response: Response<B>, reason: Reason) -> Response<ResponseBody<B>> {
        self.count_answer();
        let status = CacheStatus::forwarded(self.forward, Some(reason));
        reply::passed(&self.config, response, status)
    }
}
