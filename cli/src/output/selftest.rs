//! `fleetune selftest`: each operation, whether it agrees with its reference, and its speed.

use fleetune_engine::selftest::{Report, Unit};
use fleetune_shared::Device;
use serde_json::{Value, json};

use super::table::Field;
use super::{Colour, Show, Style, Table, plain_line};

/// What a self-test of a device found.
pub(crate) struct Tested<'a> {
    pub(crate) device: Device,
    pub(crate) reports: &'a [Report],
}

impl Tested<'_> {
    fn failed(&self) -> impl Iterator<Item = &Report> {
        self.reports.iter().filter(|report| !report.passed())
    }
}

fn speed(unit: Unit, per_second: f64) -> String {
    let unit = match unit {
        Unit::Flops => "GFLOP/s",
        Unit::Bytes => "GB/s",
    };
    format!("{:.1} {unit}", per_second / 1e9)
}

impl Show for Tested<'_> {
    fn table(&self, style: Style) -> String {
        let columns = ["operation", ">difference", ">allowed", ">speed", "verdict"];
        let mut table = Table::new(style, &columns);
        for report in self.reports {
            let (difference, speed, verdict) = match &report.outcome {
                Ok(measured) => (
                    format!("{:.1e}", measured.difference),
                    speed(report.unit, measured.per_second),
                    match report.passed() {
                        true => Field::new("agrees", Colour::Good),
                        false => Field::new("differs", Colour::Bad),
                    },
                ),
                Err(error) => ("–".into(), "–".into(), Field::new(plain_line(error), Colour::Bad)),
            };
            table.row([
                report.op.into(),
                difference.into(),
                format!("{:.0e}", report.tolerance).into(),
                speed.into(),
                verdict,
            ]);
        }
        let verdict = match self.failed().count() {
            0 => format!("all {} operations agree", self.reports.len()),
            failed => format!("{failed} of {} operations do not agree", self.reports.len()),
        };
        format!("{}\n\n{verdict}", table.text(""))
    }

    fn json(&self) -> Value {
        let one = |report: &Report| {
            let measured = report.outcome.as_ref().ok();
            json!({
                "op": report.op,
                "passed": report.passed(),
                "difference": measured.map(|m| m.difference),
                "tolerance": report.tolerance,
                "per_second": measured.map(|m| m.per_second),
                "unit": report.unit,
                "error": report.outcome.as_ref().err(),
            })
        };
        json!({
            "device": self.device,
            "passed": self.failed().next().is_none(),
            "ops": self.reports.iter().map(one).collect::<Value>(),
        })
    }

    /// What failed.
    fn quiet(&self) -> String {
        self.failed().map(|report| report.op).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use fleetune_engine::selftest::Measured;
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn what_agrees_what_differs_and_what_broke() {
        let report = |op, unit, outcome| Report { op, tolerance: 1e-5, unit, outcome };
        let reports = [
            report("project", Unit::Flops, Ok(Measured { difference: 3e-7, per_second: 5.43e10 })),
            report("add", Unit::Bytes, Ok(Measured { difference: 0.5, per_second: 1.2e10 })),
            report("rotate", Unit::Bytes, Err("the device\nfell off".into())),
        ];
        let tested = Tested { device: Device::Cpu, reports: &reports };
        assert_snapshot!(tested.table(Style::PLAIN));
        assert_eq!(tested.quiet(), "add\nrotate");
        let json = tested.json();
        assert_eq!(json["passed"], false);
        assert_eq!(json["ops"][0]["passed"], true);
        assert_eq!(json["ops"][1]["unit"], "byte/s");
        assert_eq!(json["ops"][2]["error"], "the device\nfell off");
        let fine = Tested { device: Device::Cpu, reports: &reports[..1] };
        assert_eq!(fine.json()["passed"], true);
        assert_eq!(fine.quiet(), "");
    }
}
