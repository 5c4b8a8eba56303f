//! Performance targets of the mirror, and whether they were reached.

use crate::table::Table;

#[derive(Default)]
pub struct Targets(Vec<Target>);

struct Target {
    what: &'static str,
    bound: Bound,
    limit: f64,
    measured: f64,
    unit: &'static str,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast,
    AtMost,
}

impl Targets {
    pub fn at_least(&mut self, what: &'static str, limit: f64, measured: f64, unit: &'static str) {
        self.add(what, Bound::AtLeast, limit, measured, unit);
    }

    pub fn at_most(&mut self, what: &'static str, limit: f64, measured: f64, unit: &'static str) {
        self.add(what, Bound::AtMost, limit, measured, unit);
    }

    fn add(
        &mut self,
        what: &'static str,
        bound: Bound,
        limit: f64,
        measured: f64,
        unit: &'static str,
    ) {
        self.0.push(Target {
            what,
            bound,
            limit,
            measured,
            unit,
        });
    }

    pub fn print(&self) {
        let mut table = Table::new(&["metric", "target", "measured", ""]);
        for target in &self.0 {
            let (word, reached) = match target.bound {
                Bound::AtLeast => (">=", target.measured >= target.limit),
                Bound::AtMost => ("<=", target.measured <= target.limit),
            };
            table.row(vec![
                target.what.to_owned(),
                format!("{word} {} {}", number(target.limit), target.unit)
                    .trim_end()
                    .to_owned(),
                format!("{} {}", number(target.measured), target.unit)
                    .trim_end()
                    .to_owned(),
                if reached { "ok" } else { "MISSED" }.to_owned(),
            ]);
        }
        table.print();
    }
}

fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.1 {
        format!("{value:.4}")
    } else if value.abs() < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}
