//! Why a verb failed, as it is shown: a code for scripts, a message, a hint.

use std::path::Path;
use std::process::ExitCode;

use fleetune_agent::Fate;
use fleetune_engine::EngineError;
use fleetune_proto::ClientError;
use fleetune_shared::FailureKind;
use fleetune_shared::recipe::RecipeError;
use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong.
    Error(Box<Report>),
    /// The user pressed Ctrl-C; the text says what goes on without them.
    Interrupted(Option<String>),
    /// Whoever read our stdout went away; there is nobody to tell.
    PipeClosed,
    /// Everything was said; only the exit status is left.
    Status(ExitCode),
}

/// What is shown of an error.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) status: u8,
    pub(crate) detail: Option<Detail>,
}

/// Numbers that belong to an error, such as each card's answer.
#[derive(Debug)]
pub(crate) struct Detail {
    pub(crate) text: String,
    pub(crate) key: &'static str,
    pub(crate) json: Value,
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Error(Box::new(Report { code, message, hint: None, status: 1, detail: None }))
    }

    pub(crate) fn usage(message: &str) -> Self {
        let mut failure = Self::new("usage", message);
        if let Self::Error(report) = &mut failure {
            report.status = 2;
        }
        failure
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Error(report) = &mut self {
            report.hint = Some(hint.into());
        }
        self
    }

    pub(crate) fn detail(mut self, text: String, key: &'static str, json: Value) -> Self {
        if let Self::Error(report) = &mut self {
            report.detail = Some(Detail { text, key, json });
        }
        self
    }

    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        let failure = Self::new("io", format!("{}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::NotFound => failure.hint("check the path"),
            _ => failure,
        }
    }
}

impl Failure {
    /// Of a trainer's, in its words.
    pub(crate) fn of_trainer(kind: FailureKind, message: String) -> Self {
        let code = match kind {
            FailureKind::Input => "input",
            FailureKind::OutOfMemory => "out_of_memory",
            FailureKind::Diverged => "diverged",
            FailureKind::Machine => "machine",
            FailureKind::Hung => "hung",
        };
        Self::new(code, message)
    }

    /// Of a child that carried out this command; where it could, it has said everything itself.
    pub(crate) fn of_child(fate: Fate) -> Self {
        match fate {
            Fate::Exited(status) => Self::Status(ExitCode::from(status)),
            Fate::Ended(signal) if signal.as_str() == "SIGINT" => Self::Interrupted(None),
            Fate::Ended(signal) => {
                let message = format!("the process that read the files was ended by {signal}");
                Self::new("machine", message)
            }
            Fate::OutOfMemory => {
                let message = "the process that read the files asked for more memory than this \
                               machine has or grants, and was ended";
                Self::new("out_of_memory", message).hint(
                    "the line above says how much; use a machine with more memory, and only files \
                     whose origin you trust. If it does not speak of memory, please report it",
                )
            }
        }
    }
}

impl Report {
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message, "hint": self.hint});
        if let Some(detail) = &self.detail {
            error[detail.key] = detail.json.clone();
        }
        json!({"error": error})
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(error.code.as_str(), error.message);
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Self {
        let hint = match &error {
            RecipeError::UnknownKey { .. } => "`fleetune schema` lists every key",
            RecipeError::Missing { .. } => "add it to the recipe",
            _ => "`fleetune schema` says what each key may hold",
        };
        Self::new("recipe", error.to_string()).hint(hint)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = match error {
            EngineError::Input(_) => "input",
            EngineError::OutOfMemory { .. } | EngineError::CardFull { .. } => "out_of_memory",
            EngineError::Diverged { .. } => "diverged",
            EngineError::Io { .. } => "io",
            EngineError::Stopped { .. } => return Self::Interrupted(Some(error.to_string())),
            EngineError::Tensor(_) => "internal",
        };
        Self::new(code, error.to_string())
    }
}
