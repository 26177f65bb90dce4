//! What becomes of the inner service's answer when its head is known.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, Response, StatusCode, Uri, header, response};
use http_body::{Body, SizeHint};
use tokio::time::Instant;

use crate::{
    anew::Anew,
    body::{ResponseBody, Unshaped},
    caught::{Panic, catch},
    entry::{Entry, Recorded},
    events,
    field::{self, OfTheConnection},
    mutant::Mutant,
    pinned::Pinned,
    policy::{self, Candidate, Plan, Verdict},
    recorder::{Answer, Audience, Errand, Recorder},
    recording::Recording,
    renewal::Renewal,
    reply,
    shared::{self, InFlight, count},
    status::{CacheStatus, Reason},
    store::Slot,
    tags::{CacheScope, Part, PartMarks, TagHash, Tags},
};

/// What a call of the inner service came to: when it was born, and its response.
pub(crate) type Called<B, E> = Result<(InFlight, Response<B>), E>;

/// What is known of the request once it has gone to the inner service.
pub(crate) struct Sent {
    /// When it was sent.
    pub(crate) at: Instant,
    pub(crate) headers: HeaderMap,
    pub(crate) as_asked: Option<HeaderMap>,
    pub(crate) tags: Tags,
    /// The host that it is for.
    pub(crate) origin: Option<String>,
    /// The target, as the client sent it.
    pub(crate) uri: Uri,
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
        asked: Sent,
        scope: CacheScope,
    ) -> Concluded<B, E> {
        match called {
            Ok(Ok((in_flight, response))) if in_time => {
                self.judge(asked, scope, in_flight, response)
            }
            Ok(Ok((_, response))) => self.let_pass(&asked, &scope, response, Reason::FillTimeout),
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

    pub(crate) fn judge<B: Body, E>(
        mut self,
        asked: Sent,
        scope: CacheScope,
        in_flight: InFlight,
        response: Response<B>,
    ) -> Concluded<B, E> {
        let (mut parts, body) = response.into_parts();
        if self.config.policy.is_by_the_book() {
            OfTheConnection::strip(&mut parts.headers);
        }
        // RFC 9110 §6.6.1: what has no date gets that of its receipt.
        if !parts.headers.contains_key(header::DATE) {
            let now = field::format_date(SystemTime::now());
            parts.headers.insert(header::DATE, now);
        }
        if parts.status == StatusCode::NOT_MODIFIED
            && let Some(asked_for) = self.asked_for.take()
        {
            return self.not_modified(asked, scope, in_flight, &asked_for, parts);
        }
        if let Some(told_of) = self.told_of.take() {
            let response = Response::from_parts(parts, body);
            return self.head(&asked, scope, in_flight, &told_of, response);
        }
        if self.is_head {
            let response = Response::from_parts(parts, body);
            return self.let_pass(&asked, &scope, response, Reason::Head);
        }
        let hint = body.size_hint();
        let verdict = match self.verdict(&asked, &scope, &parts, &hint, None) {
            Ok(verdict) => verdict,
            Err(panic) => return self.panicked(panic),
        };
        let is_unknown = self.is_unknown(&scope);
        let (plan, reason) = match verdict {
            Verdict::Store(_) | Verdict::Share(..) if is_unknown => {
                return self.of_unknown_parts(Response::from_parts(parts, body));
            }
            Verdict::Store(plan) => {
                let reason = self.over_budget(&plan, &hint);
                (plan, reason)
            }
            Verdict::Share(plan, reason) => (plan, Some(reason)),
            Verdict::Failed(Some(plan)) if self.held.is_second_opinion() && !is_unknown => {
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
        self.make_way(&plan, reason);
        let (head, recorder) = self.recorded(&asked, scope, in_flight, (plan, reason), parts, hint);
        Concluded::Recorded {
            head,
            recorder: Box::new(recorder),
            body,
        }
    }

    /// The answer's head as its requester gets it, and what records its body.
    fn recorded(
        mut self,
        request: &Sent,
        scope: CacheScope,
        mut in_flight: InFlight,
        (plan, reason): (Plan, Option<Reason>),
        mut head: response::Parts,
        hint: SizeHint,
    ) -> (Response<()>, Recorder) {
        self.settle_key(&plan, reason);
        let policy = &self.config.policy;
        let original = policy.store_if.is_some().then(|| Box::new(head.clone()));
        policy.strip(&mut head.headers);
        self.settle_targets(&plan, &mut in_flight);
        let tags = self.hashes(&plan);
        let reason = reason.or_else(|| self.held_off(&in_flight, &tags));
        let told = reason.or_else(|| self.cannot_be_kept(&plan, &hint));
        let cause = plan.cause.filter(|_| told == Some(Reason::DoNotStore));
        if let (Some(reason), Some(cause)) = (told, cause) {
            let refusals = &self.config.shared.refusals;
            refusals.note(&self.keys.flight, reason, cause);
        }
        let mut head = self.labelled(Response::from_parts(head, ()), told, cause);
        if let Some(part) = self.part.take() {
            head.extensions_mut().insert(Part {
                marks: Some(PartMarks::new(&self.config.shared.purges, tags.clone())),
                do_not_store: reason.is_some(),
                ..part
            });
        }
        let selection = &self.config.selection;
        let recorded = self.asked.take().and_then(|(mut asked, keys)| {
            let vary = || plan.head.vary.names();
            if selection.any_says_who_asks(vary()) {
                return None;
            }
            asked.tags = request.tags.clone();
            let mut headers = selection.recorded_headers(&request.headers, vary());
            policy::ask_for_the_whole(&mut headers);
            let recorded = Recorded::new(asked, &headers);
            // A closure in the key may read what is not recorded: then another answer would come to its place.
            let (head, asked) = recorded.request()?;
            // It may also rely on it, and panic: the response is none the worse for that.
            let is_the_same = catch(|| keys.makes(head, &self.keys.key)).unwrap_or(false);
            // Nor is anything recorded for a layer that is gone.
            let is_of_use = is_the_same && asked.again.get().is_some();
            is_of_use.then(|| Box::new(recorded))
        });
        let kept_back = plan.head.kept_back.clone();
        let answer = Answer {
            scope,
            in_flight,
            plan,
            tags,
            recorded,
            recording: Recording::new(hint, &kept_back, &self.config.shared.budget),
            original,
            store: reason.is_none(),
            unrecorded: reason == Some(Reason::RecordingBudget),
        };
        (head, Recorder::new(self, answer))
    }

    /// The inner service says that what is stored is still what it would answer: it is stored anew, with what the 304 says of
    /// it (RFC 9111 §4.3.4). Its requester, and those who wait, get the whole of it.
    fn not_modified<B, E>(
        mut self,
        asked: Sent,
        scope: CacheScope,
        in_flight: InFlight,
        pinned: &Pinned,
        not_modified: response::Parts,
    ) -> Concluded<B, E> {
        self.is_not_modified = true;
        let asked_about = pinned.entry();
        let is_same = asked_about.head.is_named_by(&not_modified.headers);
        // Another 304 may have renewed it meanwhile: this one is applied on top of that (RFC 9111 §4.3.4).
        let _turn = asked_about.lineage.lock();
        let stored = &self.as_renewed(asked_about);
        // One that speaks of another says nothing of this.
        let news = if is_same {
            not_modified
        } else {
            Response::new(()).into_parts().0
        };
        let (mut parts, hint) = stored.updated_by(news);
        let verdict = match self.verdict(&asked, &scope, &parts, &hint, Some(stored)) {
            Ok(verdict) => verdict,
            Err(panic) => return self.panicked(panic),
        };
        // What was purged since it was found is old, whatever the inner service says of it.
        let purges = &self.config.shared.purges;
        let is_valid = pinned.is_valid() || purges.mutants.has(Mutant::RenewedThoughPurged);
        let planned = match verdict {
            Verdict::Keep(reason) => {
                self.keep(&parts, reason);
                Err(reason)
            }
            Verdict::Store(plan) if is_same && is_valid => Ok((plan, None)),
            Verdict::Share(plan, reason) if is_same && is_valid => Ok((plan, Some(reason))),
            // This requester has to make do with it, and it says nothing of the next answer.
            _ if is_same => Err(Reason::NotShared),
            _ => Err(Reason::Status),
        };
        let planned = match planned {
            Ok(planned) => {
                self.make_way(&planned.0, planned.1);
                planned
            }
            Err(reason) => {
                if !is_same {
                    // RFC 9111 §4.3.4: it speaks of another. The next one is asked for as a whole.
                    self.end_what_is_stored();
                }
                self.held.hand_over();
                self.config.policy.strip(&mut parts.headers);
                let mut head = self.labelled(Response::from_parts(parts, ()), Some(reason), None);
                if let Some(part) = self.part.take().filter(|_| is_same) {
                    let do_not_store = true;
                    head.extensions_mut().insert(Part {
                        do_not_store,
                        ..part
                    });
                }
                return Concluded::Passed(head.map(|()| ResponseBody::stored(stored)));
            }
        };
        let found = self.keys.key.clone();
        let config = self.config.clone();
        let (mut head, recorder) = self.recorded(&asked, scope, in_flight, planned, parts, hint);
        let reader = recorder.recording().requesters_reader();
        if !recorder.renew(stored, found) {
            config.report.not_stored(&mut head);
        }
        Concluded::Passed(head.map(|()| ResponseBody::followed(reader)))
    }

    /// The answer to a HEAD, which tells of what is stored whether it is still so (RFC 9111 §4.3.5).
    fn head<B: Body, E>(
        mut self,
        asked: &Sent,
        scope: CacheScope,
        in_flight: InFlight,
        pinned: &Pinned,
        response: Response<B>,
    ) -> Concluded<B, E> {
        let _turn = pinned.entry().lineage.lock();
        let stored = &self.as_renewed(pinned.entry());
        let (parts, body) = response.into_parts();
        let is_gone = matches!(parts.status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let is_ok = parts.status == StatusCode::OK && stored.head.status == StatusCode::OK;
        let is_told_of = stored.is_told_of_by(&parts.headers) && pinned.is_valid();
        if is_gone || (is_ok && !is_told_of) {
            self.drop_stored(stored);
        }
        // What has no validator may be another each time: it is not renewed.
        if !is_ok || !is_told_of || !stored.has_validator() {
            let response = Response::from_parts(parts, body);
            return self.let_pass(asked, &scope, response, Reason::Head);
        }
        let (updated, hint) = stored.updated_by(parts);
        let planned = match self.verdict(asked, &scope, &updated, &hint, Some(stored)) {
            Ok(Verdict::Store(plan)) => plan,
            Ok(_) => {
                // It is not to be shared any more.
                self.drop_stored(stored);
                let response = Response::from_parts(updated, body);
                return Concluded::Passed(self.passed(response, Reason::Head));
            }
            Err(panic) => return self.panicked(panic),
        };
        let planned = (planned, None);
        let found = self.keys.key.clone();
        let config = self.config.clone();
        let (mut head, recorder) = self.recorded(asked, scope, in_flight, planned, updated, hint);
        if !recorder.renew(stored, found) {
            config.report.not_stored(&mut head);
        }
        Concluded::Passed(head.map(|()| ResponseBody::withheld()))
    }

    /// A stored response as the last 304 or HEAD has left it, or as it was found, if it is not stored any more.
    fn as_renewed(&self, found: &Arc<Entry>) -> Arc<Entry> {
        let slot = self.config.shared.memory.get(&self.keys.key);
        let entries = slot.as_ref().map_or(&[][..], Slot::entries);
        let mut renewed = entries.iter();
        let renewed = renewed.find(|entry| entry.lineage.is(&found.lineage));
        renewed.unwrap_or(found).clone()
    }

    /// Whether an answer would take the place of a stored response that is no failure.
    fn replaces_good(&self) -> bool {
        let stored = self
            .held
            .renewal
            .as_ref()
            .map(|renewal| &renewal.entry().head);
        let policy = &self.config.policy;
        stored.is_some_and(|head| !policy.is_failure(head.status, &head.headers))
    }

    /// Before a response is recorded: what it withdraws goes, and nobody waits for what has to be validated first.
    fn make_way(&mut self, plan: &Plan, reason: Option<Reason>) {
        if reason == Some(Reason::NoLifetime) {
            self.end_what_is_stored();
        }
        if plan.alone {
            self.set_apart();
        }
    }

    /// Nobody else gets the answer before it was validated: who waits for it asks for itself.
    fn set_apart(&mut self) {
        let refusals = &self.config.shared.refusals;
        refusals.remember(&self.keys.flight, Reason::NoLifetime);
        let leader = self.held.leader.take();
        leader
            .into_iter()
            .for_each(|leader| leader.land(shared::Answer::Refused));
    }

    fn panicked<B, E>(mut self, panic: Panic) -> Concluded<B, E> {
        self.held.fail();
        Concluded::Panicked(panic)
    }

    /// What is to become of a response. The application has a say in it, and may panic.
    fn verdict(
        &mut self,
        asked: &Sent,
        scope: &CacheScope,
        response: &response::Parts,
        body: &SizeHint,
        renewed: Option<&Entry>,
    ) -> Result<Verdict, Panic> {
        let policy = &self.config.policy;
        let purges = &self.config.shared.purges;
        let mut gathered = scope.close();
        if purges.mutants.has(Mutant::PartsForgotten) {
            gathered.parts = Default::default();
        }
        self.inherited = gathered.parts.marks(purges);
        self.inherited
            .extend(renewed.iter().flat_map(|entry| entry.stamp.tags()));
        if self.inherited.len() > policy.max_inherited_marks() {
            return Ok(Verdict::Keep(Reason::TooManyTags));
        }
        if !self.inherited.is_empty() {
            // While the parts hold theirs, and until it is settled which of them this one has.
            self.inherited_presence = Some(purges.enter(&self.inherited));
        }
        let candidate = Candidate {
            identity: self.identity,
            fragment: &self.keys.fragment,
            selection: &self.config.selection,
            request_headers: &asked.headers,
            headers_as_asked: asked.as_asked.as_ref().unwrap_or(&asked.headers),
            request_tags: asked.tags.clone(),
            renewed,
            response,
            gathered,
            body,
            received: Instant::now(),
            at: SystemTime::now(),
            delay: asked.at.elapsed(),
            replaces_good: self.replaces_good(),
            is_post: self.is_post,
            is_of_uncached_method: false,
            origin: asked.origin.clone(),
            uri: &asked.uri,
        };
        let is_nested = self.is_nested;
        let (verdict, part) = catch(|| {
            let verdict = policy.judge(&candidate);
            let part = is_nested.then(|| policy.part(&candidate, &verdict));
            (verdict, part.flatten())
        })?;
        self.part = part.map(|part| {
            let names = part.tags.iter().map(|tag| purges.hash_tag(tag));
            let own = [self.keys.request, self.keys.target, self.keys.all_queries];
            let marks = names.chain(own).chain(self.inherited.iter().copied());
            Part {
                marks: Some(PartMarks::new(purges, marks.collect::<Vec<_>>())),
                scope: Some(scope.clone()),
                ..part
            }
        });
        Ok(verdict)
    }

    /// Whether the response is made of one of which nobody knows what it depends on.
    fn is_unknown(&self, scope: &CacheScope) -> bool {
        let mutants = &self.config.shared.purges.mutants;
        scope.has_unknown_part() && !mutants.has(Mutant::UnknownPartsStored)
    }

    /// The response is its requester's alone, as a failure is: the next one may be made of parts that are known.
    fn of_unknown_parts<B, E>(mut self, response: Response<B>) -> Concluded<B, E> {
        self.held.fail();
        self.part = None;
        Concluded::Passed(self.passed(response, Reason::UnknownPart))
    }

    /// The response goes to its requester as it is. Is it part of another, that one hears of it all the same.
    fn let_pass<B: Body, E>(
        &mut self,
        asked: &Sent,
        scope: &CacheScope,
        response: Response<B>,
        reason: Reason,
    ) -> Concluded<B, E> {
        let (parts, body) = response.into_parts();
        if self.is_nested {
            // Where it panics, nothing is known of it.
            let _ = self.verdict(asked, scope, &parts, &body.size_hint(), None);
        }
        let response = Response::from_parts(parts, body);
        Concluded::Passed(self.passed(response, reason))
    }

    /// What is marked when the response is purged: its tags, its request, and the target of that.
    fn hashes(&self, plan: &Plan) -> Box<[TagHash]> {
        let purges = &self.config.shared.purges;
        let tags = plan.tags.iter().map(|tag| purges.hash_tag(tag));
        let of_all_queries = self
            .keys
            .searched
            .as_ref()
            .filter(|_| plan.head.search.is_some());
        let path = of_all_queries.map(|searched| self.config.path_hash(&searched.path));
        let own = tags
            .chain([self.keys.request, self.keys.target, self.keys.all_queries])
            .chain(path);
        if self.inherited.is_empty() {
            return own.collect();
        }
        let mut all: Vec<_> = own.chain(self.inherited.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all.into()
    }

    /// What an unsafe request may invalidate the response by: its target, its path only if it is for many queries, and its cache groups.
    fn settle_targets(&self, plan: &Plan, in_flight: &mut InFlight) {
        let policy = &self.config.policy;
        if self.keys.searched.is_none() && !policy.cache_groups && self.inherited.is_empty() {
            return;
        }
        let mut targets = self.targets();
        if plan.head.search.is_none() {
            targets.truncate(1);
        }
        targets.extend(&self.inherited);
        let purges = &self.config.shared.purges;
        let groups = plan.tags.iter().filter(|tag| policy::is_group(tag));
        let groups = groups.map(|group| purges.hash_tag(group));
        let groups = groups.filter(|_| policy.cache_groups);
        in_flight.settle(&targets, &groups.collect::<Vec<_>>());
    }

    /// The key under which the response is stored: with no more of the query than matters, as it says itself.
    fn settle_key(&mut self, plan: &Plan, reason: Option<Reason>) {
        let Some(searched) = &self.keys.searched else {
            return;
        };
        let rule = plan.head.search.as_ref();
        let query = searched.query.as_deref();
        let key = rule.and_then(|rule| searched.reach.search(&searched.exact, rule, query));
        self.keys.key = key.unwrap_or_else(|| searched.exact.clone());
        if reason.is_none() {
            let searches = &self.config.shared.searches;
            searches.learn(&searched.path, rule);
        }
    }

    /// Whether bodies under way hold so much that this one is not recorded.
    fn over_budget(&self, plan: &Plan, hint: &SizeHint) -> Option<Reason> {
        let length = plan.content_length.or(hint.exact());
        let is_over = length != Some(0)
            && self
                .config
                .shared
                .budget
                .is_exceeded_by(length.unwrap_or(0));
        is_over.then_some(Reason::RecordingBudget)
    }

    /// Why it is known already that the answer will not be stored.
    fn held_off(&self, in_flight: &InFlight, tags: &[u64]) -> Option<Reason> {
        let purges = &self.config.shared.purges;
        let birth = in_flight.birth();
        if purges.holds(birth, tags) {
            return Some(Reason::HeldOff);
        }
        (!purges.may_store(birth, tags)).then_some(Reason::Purged)
    }

    /// Why a response that may be stored will not be, as far as its head tells: its body is announced with two lengths, or it takes more
    /// than all of the cache's memory.
    fn cannot_be_kept(&self, plan: &Plan, body: &SizeHint) -> Option<Reason> {
        let length = plan.content_length.unwrap_or_else(|| body.lower());
        if body.exact().is_some_and(|exact| exact != length) {
            return Some(Reason::ContentLength);
        }
        let memory = &self.config.shared.memory;
        let least = Entry::least_weight(&plan.head, self.keys.key.len());
        (!memory.has_room_for(length.saturating_add(least))).then_some(Reason::TooLarge)
    }

    /// The answer's head as its requester gets it.
    fn labelled(
        &self,
        mut head: Response<()>,
        reason: Option<Reason>,
        cause: Option<&'static str>,
    ) -> Response<()> {
        let mut status = CacheStatus::forwarded(self.forward, reason);
        status.cause = cause;
        if let Some(reason) = reason {
            events::not_stored(reason, cause);
        }
        // RFC 9211 §2.3: where it is not what is sent.
        status.forward_status = self.is_not_modified.then_some(StatusCode::NOT_MODIFIED);
        // Where the application decides by the complete body, nobody knows yet.
        status.stored = reason.is_none() && self.config.policy.store_if.is_none();
        self.config.label(&mut head, status);
        self.count_answer();
        head
    }

    /// The answer is its requester's alone: who waits for this key need not.
    fn keep(&mut self, response: &response::Parts, reason: Reason) {
        self.anew.iter().for_each(Anew::refused);
        // What nobody asked for tells nothing of what others get: it may lack their credentials.
        if self.anew.is_none() {
            let refusals = &self.config.shared.refusals;
            refusals.remember(&self.keys.flight, reason);
        }
        // Said by the response, or by one that it is made of.
        let is_withdrawn = matches!(
            reason,
            Reason::NoStore | Reason::Private | Reason::NoCache | Reason::CacheControl
        );
        let is_no_more = is_withdrawn || self.config.policy.is_no_more(response);
        if self.held.renewal.is_some() && is_no_more {
            self.end_what_is_stored();
        }
        if response.status == StatusCode::TOO_MANY_REQUESTS {
            // It asks to be left alone.
            self.held.put_off();
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
            self.drop_stored(&entry);
        }
    }

    /// Drops it, and what is the same for other requests (RFC 9111 §4.3.4: all that bear its strong entity tag are meant).
    fn drop_stored(&self, entry: &Arc<Entry>) {
        let memory = &self.config.shared.memory;
        memory.retain(&self.keys.key, |stored| {
            !stored.lineage.is(&entry.lineage) && !stored.head.is_the_same_as(&entry.head)
        });
    }

    fn passed<B>(&mut self, response: Response<B>, reason: Reason) -> Response<ResponseBody<B>> {
        self.count_answer();
        events::not_stored(reason, None);
        let status = CacheStatus::forwarded(self.forward, Some(reason));
        let mut response = reply::passed(&self.config, response, status);
        // A response that took too long is not asked for a second time.
        let unshaped = Unshaped {
            status,
            may_repeat: reason != Reason::FillTimeout,
        };
        response = response.map(|body| body.unshaped_as(unshaped));
        if let Some(part) = self.part.take() {
            response.extensions_mut().insert(part);
        }
        response
    }
}
