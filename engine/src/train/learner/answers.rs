//! Learning from what is preferred among answers.
//!
//! A sequence of the data set is two examples: the chosen answer and the rejected one, or an answer that was judged and
//! the same prompt with the answer of another row.

use std::path::Path;

use fleetune_shared::recipe::{Cpo, Dpo, Kto, KtoLoss};

use super::Learned;
use super::reference::Reference;
use crate::data::{Dataset, MicroBatch};
use crate::model::{Model, Policy, TokenLogps};
use crate::objective::{self, Grades, Judged, Sequence};
use crate::train::Observer;
use crate::{EngineError, Result, memory};

/// How answers are graded.
#[derive(Clone, Debug)]
pub(super) enum Grading {
    Dpo(Dpo),
    Kto(Kto),
    Orpo { beta: f64 },
    Cpo(Cpo),
}

/// A grading of the answers of `data`.
pub(in crate::train) struct Answers<'a> {
    grading: Grading,
    data: &'a Dataset,
    pub(super) reference: Reference,
}

/// Examples to learn from, and what must be known before they can be graded.
struct Question {
    batch: MicroBatch,
    /// Labels that belong to each example's prompt.
    prompts: Vec<usize>,
    /// The reference's log-probability of each example; empty for objectives without one.
    references: Vec<f64>,
    /// `ln π/π_ref` of answers to other prompts.
    mismatched: Vec<f64>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(grading: Grading, data: &'a Dataset) -> Self {
        Self { grading, data, reference: Reference::Base }
    }

    /// Whether a reference is compared with at all.
    fn compares(&self) -> bool {
        matches!(self.grading, Grading::Dpo(_) | Grading::Kto(_))
    }

    /// See [`super::Learner::ask_reference`]; says how many rows there were, where there is anything to ask.
    pub(super) fn ask_reference(
        &mut self,
        model: &mut Model,
        micro_batch: usize,
        observer: &mut dyn Observer,
    ) -> Result<Option<usize>> {
        if !self.compares() {
            return Ok(None);
        }
        let mut rows = Vec::with_capacity(self.data.len());
        let all: Vec<usize> = (0..self.data.len()).collect();
        for chunk in all.chunks(micro_batch) {
            if observer.stop_requested() {
                return Err(EngineError::Stopped { step: 0 });
            }
            let batch = self.data.micro_batch(chunk)?;
            let tokens = model.token_logps(&batch, Policy::Learning, false)?;
            rows.extend_from_slice(self.pairs(&batch, &tokens.logps).as_chunks::<2>().0);
            memory::check()?;
        }
        self.reference = Reference::Stored(rows);
        Ok(Some(all.len()))
    }

    pub(super) fn recall_reference(&mut self, path: &Path) -> Result<()> {
        if self.compares() {
            self.reference = Reference::load(path, self.data.len())?;
        }
        Ok(())
    }

    pub(super) fn learn(
        &self,
        model: &mut Model,
        batch: &MicroBatch,
        scale: f64,
    ) -> Result<Learned> {
        let question = self.question(model, batch)?;
        let collisions = self.weighs();
        let Grades { loss, tally, .. } =
            model.forward_backward_graded(&question.batch, collisions, |tokens| {
                let grades = self.grade(&question, &tokens);
                let pulls = grades.gradient.iter().map(|pull| scale * pull).collect();
                Ok((grades, pulls))
            })?;
        Ok(Learned { loss, tally })
    }

    pub(super) fn assess(&self, model: &mut Model, batch: &MicroBatch) -> Result<Learned> {
        let question = self.question(model, batch)?;
        let tokens = model.token_logps(&question.batch, Policy::Learning, self.weighs())?;
        let Grades { loss, tally, .. } = self.grade(&question, &tokens);
        Ok(Learned { loss, tally })
    }

    fn weighs(&self) -> bool {
        matches!(&self.grading, Grading::Dpo(dpo) if dpo.use_weighting)
    }

    fn question(&self, model: &mut Model, batch: &MicroBatch) -> Result<Question> {
        let mut question = Question {
            batch: batch.clone(),
            prompts: Vec::new(),
            references: Vec::new(),
            mismatched: Vec::new(),
        };
        match &self.grading {
            Grading::Dpo(_) => {
                question.references = match &self.reference {
                    Reference::Base => {
                        let tokens = model.token_logps(batch, Policy::Base, false)?;
                        self.pairs(batch, &tokens.logps)
                    }
                    Reference::Stored(rows) => {
                        batch.sequences.iter().flat_map(|sequence| rows[*sequence]).collect()
                    }
                }
            }
            Grading::Kto(kto) => {
                question.batch = batch.every_second(0);
                question.references = self.half_references(model, &question.batch, 0)?;
                if kto.loss == KtoLoss::Kto {
                    let others = batch.every_second(1);
                    let tokens = model.token_logps(&others, Policy::Learning, false)?;
                    let references = self.half_references(model, &others, 1)?;
                    let drift = sums(&others, &tokens.logps).zip(references);
                    question.mismatched = drift.map(|(policy, base)| policy - base).collect();
                }
            }
            Grading::Orpo { .. } => question.prompts = question.batch.label_prompts(),
            Grading::Cpo(_) => {}
        }
        Ok(question)
    }

    /// The reference's log-probabilities of one of the two examples of each sequence.
    fn half_references(
        &self,
        model: &mut Model,
        half: &MicroBatch,
        which: usize,
    ) -> Result<Vec<f64>> {
        match &self.reference {
            Reference::Base => {
                let tokens = model.token_logps(half, Policy::Base, false)?;
                Ok(sums(half, &tokens.logps).collect())
            }
            Reference::Stored(rows) => {
                Ok(half.sequences.iter().map(|sequence| rows[*sequence][which]).collect())
            }
        }
    }

    /// Log-probabilities of both answers of each pair, as the grading weighs their tokens.
    fn pairs(&self, batch: &MicroBatch, logps: &[f64]) -> Vec<f64> {
        let tail = match &self.grading {
            Grading::Dpo(dpo) => dpo.ld_alpha.unwrap_or(1.0),
            _ => 1.0,
        };
        let mut answers = cut(batch, logps);
        let mut sums = Vec::with_capacity(2 * batch.sequences.len());
        while let (Some(a), Some(b)) = (answers.next(), answers.next()) {
            let shared = a.len().min(b.len());
            sums.extend([a, b].map(|logps| sequence(logps).logp(shared, tail)));
        }
        sums
    }

    fn grade(&self, question: &Question, tokens: &TokenLogps) -> Grades {
        let logps = cut(&question.batch, &tokens.logps);
        let mut collisions = cut(&question.batch, &tokens.collisions);
        let sequences: Vec<Sequence<'_>> = logps
            .enumerate()
            .map(|(at, logps)| Sequence {
                prompt: question.prompts.get(at).copied().unwrap_or(0),
                collisions: collisions.next().unwrap_or_default(),
                reference: question.references.get(at).copied().unwrap_or(0.0),
                ..sequence(logps)
            })
            .collect();
        match &self.grading {
            Grading::Dpo(dpo) => objective::dpo(dpo, &sequences),
            Grading::Kto(kto) => {
                let judged = |(sequence, number): (_, &usize)| Judged {
                    sequence,
                    desirable: self.data.desirable(*number),
                };
                let answers: Vec<Judged<'_>> =
                    sequences.into_iter().zip(&question.batch.sequences).map(judged).collect();
                objective::kto(kto, &answers, &question.mismatched)
            }
            Grading::Orpo { beta } => objective::orpo(*beta, &sequences),
            Grading::Cpo(cpo) => objective::cpo(cpo, &sequences),
        }
    }
}

/// Numbers of labelled tokens, example by example; nothing where nothing was asked.
fn cut<'t>(batch: &MicroBatch, tokens: &'t [f64]) -> impl Iterator<Item = &'t [f64]> {
    let mut at = 0;
    batch.supervised_each().map(move |labels| {
        let from = at;
        at += labels;
        tokens.get(from..at).unwrap_or_default()
    })
}

fn sums(batch: &MicroBatch, logps: &[f64]) -> impl Iterator<Item = f64> {
    cut(batch, logps).map(|logps| logps.iter().sum())
}

fn sequence(logps: &[f64]) -> Sequence<'_> {
    Sequence { logps, prompt: 0, collisions: &[], reference: 0.0 }
}
