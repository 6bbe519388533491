//! One kind of request in both protocols and with all numbers of workers, side by side.

use super::{Case, contender::MODULE, median, range};

/// One kind of request in one protocol, with one number of workers.
pub struct Compared {
    pub case: Case,
    /// The protocol and the workers.
    pub column: String,
    pub times: Vec<Times>,
    /// Of a request, for the module.
    pub module_micros: f64,
}

/// What one server takes, in multiples of the module: one for each round.
pub struct Times {
    pub name: &'static str,
    pub ratios: Vec<f64>,
}

/// Prints what is of this kind, if there is more than one column of it.
pub fn print(case: Case, compared: &[Compared]) {
    let columns: Vec<&Compared> = compared.iter().filter(|one| one.case == case).collect();
    let [first, _, ..] = columns[..] else {
        return;
    };
    print!("\n| {}, times the module |", case.name());
    columns.iter().for_each(|one| print!(" {} |", one.column));
    println!("\n|---|{}", "--:|".repeat(columns.len()));
    for Times { name, .. } in first.times.iter().filter(|one| one.name != MODULE) {
        print!("| {name} |");
        for column in &columns {
            let ratios = column.times.iter().find(|one| one.name == *name);
            let ratios = &ratios.expect("all columns have the same servers").ratios;
            let (lowest, highest) = range(ratios);
            print!(" {:.2} ({lowest:.2} to {highest:.2}) |", median(ratios));
        }
        println!();
    }
    print!("| the module itself, us |");
    columns
        .iter()
        .for_each(|one| print!(" {:.1} |", one.module_micros));
    println!();
}
