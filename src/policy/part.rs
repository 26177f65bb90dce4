//! What a page takes over from a response that it is made of, as far as the heads of both say.

use super::{Candidate, Plan, Policy, Verdict, terms::Terms};
use crate::{
    status::Reason,
    tags::{Part, TagNames},
};

/// How many hashes a response may inherit from those that it is made of, for each tag that it may have: each part has its own
/// tags, its request and its target.
const MARKS_A_TAG: usize = 4;

impl Policy {
    pub(crate) fn max_inherited_marks(&self) -> usize {
        self.max_tags.saturating_mul(MARKS_A_TAG)
    }

    /// What a page takes over from a response of which this is the verdict. `None` if nobody can tell: it is a failure.
    pub(crate) fn part(&self, candidate: &Candidate<'_>, verdict: &Verdict) -> Option<Part> {
        match verdict {
            Verdict::Store(plan) => Some(of_plan(plan)),
            Verdict::Share(plan, _) => Some(Part {
                do_not_store: true,
                fresh_until: None,
                ..of_plan(plan)
            }),
            Verdict::Keep(reason) => Some(self.kept(candidate, *reason)),
            Verdict::Failed(_) => None,
        }
    }

    /// Of a response that is for its requester alone. A reason that says nothing of who may have it says nothing of who may have
    /// the page.
    fn kept(&self, candidate: &Candidate<'_>, reason: Reason) -> Part {
        let tags = match self.tags(candidate) {
            Ok(tags) => TagNames::new(&tags),
            Err(reason) => return private(TagNames::default(), reason),
        };
        let concerns_storing_alone = matches!(
            reason,
            Reason::TooLarge | Reason::EventStream | Reason::Stream
        );
        match self.terms(candidate) {
            Ok(terms) if concerns_storing_alone => of_terms(candidate, &terms, tags),
            _ => private(tags, reason),
        }
    }
}

fn of_plan(plan: &Plan) -> Part {
    let head = &plan.head;
    Part {
        fresh_until: head.received.checked_add(head.ttl),
        must_revalidate: !head.may_be_stale,
        // It has to be validated before anybody else gets it, and the page cannot be.
        private: plan.alone.then_some(Reason::NoLifetime),
        ..public(TagNames::new(&plan.tags))
    }
}

fn of_terms(candidate: &Candidate<'_>, terms: &Terms, tags: TagNames) -> Part {
    Part {
        fresh_until: candidate.received.checked_add(terms.ttl),
        must_revalidate: !terms.may_be_stale,
        private: terms.alone.then_some(Reason::NoLifetime),
        ..public(tags)
    }
}

fn private(tags: TagNames, reason: Reason) -> Part {
    Part {
        private: Some(reason),
        ..public(tags)
    }
}

fn public(tags: TagNames) -> Part {
    Part {
        tags,
        marks: None,
        fresh_until: None,
        must_revalidate: false,
        do_not_store: false,
        private: None,
        scope: None,
    }
}
