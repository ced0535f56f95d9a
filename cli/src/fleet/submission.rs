//! Jobs on their way in.

use fleetune_proto::Client;
use fleetune_proto::client::Outcome;
use fleetune_shared::view::Explanation;
use fleetune_shared::{JobId, JobSpec, RequestId};
use serde_json::{Value, json};

use crate::Failure;
use crate::output::{Refusals, Show, Style, plain_line};

/// What became of a submission.
pub(crate) struct Submitted {
    pub(crate) accepted: Vec<(JobId, String)>,
    pub(crate) refused: Vec<(String, Explanation)>,
}

/// Submits jobs in one request.
pub(crate) async fn submit(client: &Client, specs: &[JobSpec]) -> Result<Submitted, Failure> {
    let request = RequestId(uuid::Uuid::new_v4().to_string());
    let outcomes = client.submit(&request, specs).await?;
    let mut submitted = Submitted { accepted: Vec::new(), refused: Vec::new() };
    for (spec, outcome) in specs.iter().zip(outcomes) {
        match outcome {
            Outcome::Accepted(id) => submitted.accepted.push((id, spec.name.clone())),
            Outcome::Refused(why) => submitted.refused.push((spec.name.clone(), *why)),
        }
    }
    Ok(submitted)
}

impl Submitted {
    pub(crate) fn ids(&self) -> Vec<JobId> {
        self.accepted.iter().map(|(id, _)| *id).collect()
    }

    /// An error where a job was refused, with the scheduler's numbers.
    pub(crate) fn refusal(&self, style: Style) -> Result<(), Failure> {
        let message = match self.refused.as_slice() {
            [] => return Ok(()),
            [(_, why)] => plain_line(&why.summary),
            several => format!("{} jobs were refused", several.len()),
        };
        let refusals = Refusals(&self.refused);
        let failure = Failure::new("refused", message).detail(
            refusals.text(style),
            "refused",
            refusals.json(),
        );
        Err(match self.refused.iter().find_map(|(_, why)| why.hint.clone()) {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }
}

impl Show for Submitted {
    fn table(&self, _style: Style) -> String {
        let line =
            |(id, name): &(JobId, String)| format!("job {id} {} is queued", plain_line(name));
        self.accepted.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn json(&self) -> Value {
        let one = |(id, name): &(JobId, String)| json!({"id": id, "name": name});
        match self.accepted.as_slice() {
            [job] => one(job),
            several => several.iter().map(one).collect(),
        }
    }

    fn quiet(&self) -> String {
        self.accepted.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join("\n")
    }
}
