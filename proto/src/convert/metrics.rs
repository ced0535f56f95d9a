//! What a trainer measured, and how it failed.

use fleetune_shared::{AsRun, BestEvaluation, ByteSize, FailureKind, StepMetrics, TrainSummary};

use super::history::peak_source;
use super::{ConvertError, optional, required};
use crate::v1;

super::convert_enum!(FailureKind, FailureKind, Input, OutOfMemory, Diverged, Machine, Hung);

impl From<StepMetrics> for v1::StepMetrics {
    fn from(m: StepMetrics) -> Self {
        Self {
            step: m.step,
            loss: m.loss,
            grad_norm: m.grad_norm,
            learning_rate: m.learning_rate,
            supervised_tokens: m.supervised_tokens,
            tokens_per_second: m.tokens_per_second,
            epoch: m.epoch,
            more: m.more.into_iter().collect(),
        }
    }
}

impl TryFrom<v1::StepMetrics> for StepMetrics {
    type Error = ConvertError;
    fn try_from(m: v1::StepMetrics) -> Result<Self, ConvertError> {
        Ok(Self {
            step: m.step,
            loss: m.loss,
            grad_norm: m.grad_norm,
            learning_rate: m.learning_rate,
            supervised_tokens: m.supervised_tokens,
            tokens_per_second: m.tokens_per_second,
            epoch: m.epoch,
            more: m.more.into_iter().collect(),
        })
    }
}

impl From<BestEvaluation> for v1::BestEvaluation {
    fn from(best: BestEvaluation) -> Self {
        let BestEvaluation { step, metric, value } = best;
        Self { step, metric, value }
    }
}

impl From<v1::BestEvaluation> for BestEvaluation {
    fn from(best: v1::BestEvaluation) -> Self {
        let v1::BestEvaluation { step, metric, value } = best;
        Self { step, metric, value }
    }
}

impl From<AsRun> for v1::AsRun {
    fn from(ran: AsRun) -> Self {
        Self { rows: ran.rows, tokens: ran.tokens, estimate: Some(ran.estimate.into()) }
    }
}

impl TryFrom<v1::AsRun> for AsRun {
    type Error = ConvertError;
    fn try_from(ran: v1::AsRun) -> Result<Self, ConvertError> {
        let v1::AsRun { rows, tokens, estimate } = ran;
        Ok(Self { rows, tokens, estimate: required("estimate", estimate)? })
    }
}

impl From<TrainSummary> for v1::TrainSummary {
    fn from(s: TrainSummary) -> Self {
        Self {
            steps: s.steps,
            loss_first: s.loss_first,
            loss_last: s.loss_last,
            trainable_parameters: s.trainable_parameters,
            tokens: s.tokens,
            supervised_tokens: s.supervised_tokens,
            rows: s.rows,
            rows_dropped: s.rows_dropped,
            rows_truncated: s.rows_truncated,
            seconds: s.seconds,
            tokens_per_second: s.tokens_per_second,
            seconds_to_first_step: s.seconds_to_first_step,
            seconds_waited_for_data: s.seconds_waited_for_data,
            estimate: s.estimate.map(Into::into),
            memory_bytes_peak: s.memory_bytes_peak.0,
            peak_source: v1::PeakSource::from(s.peak_source).into(),
            merge_logit_difference: s.merge_logit_difference,
            eval_loss_last: s.eval_loss_last,
            best: s.best.map(Into::into),
            as_run: s.as_run.map(Into::into),
        }
    }
}

impl TryFrom<v1::TrainSummary> for TrainSummary {
    type Error = ConvertError;
    fn try_from(s: v1::TrainSummary) -> Result<Self, ConvertError> {
        Ok(Self {
            steps: s.steps,
            loss_first: s.loss_first,
            loss_last: s.loss_last,
            trainable_parameters: s.trainable_parameters,
            tokens: s.tokens,
            supervised_tokens: s.supervised_tokens,
            rows: s.rows,
            rows_dropped: s.rows_dropped,
            rows_truncated: s.rows_truncated,
            seconds: s.seconds,
            tokens_per_second: s.tokens_per_second,
            seconds_to_first_step: s.seconds_to_first_step,
            seconds_waited_for_data: s.seconds_waited_for_data,
            estimate: optional("estimate", s.estimate)?,
            memory_bytes_peak: ByteSize(s.memory_bytes_peak),
            peak_source: peak_source(s.peak_source)?,
            merge_logit_difference: s.merge_logit_difference,
            eval_loss_last: s.eval_loss_last,
            best: s.best.map(Into::into),
            as_run: optional("as_run", s.as_run)?,
        })
    }
}
