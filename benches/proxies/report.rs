//! The results, for a person (Markdown), for a machine (JSON), at a glance (SVG).

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use super::measure::Sample;
use super::workloads::WORKLOADS;

/// Whose figures the others are divided by.
const REFERENCE: &str = "pgbouncer";

struct Counter {
    title: &'static str,
    of: fn(&Sample) -> Option<f64>,
}

const FIGURES: &[Counter] = &[
    Counter { title: "CPU of the proxy, microseconds per transaction", of: |sample| sample.cpu_us },
    Counter { title: "Transactions per second", of: |sample| sample.tps },
    Counter { title: "Latency p50, microseconds", of: |sample| sample.p50_us },
    Counter { title: "Latency p99, microseconds", of: |sample| sample.p99_us },
    Counter { title: "CPU of the proxy, microseconds per megabyte", of: |sample| sample.cpu_us_per_mb },
    Counter { title: "Megabytes per second", of: |sample| sample.mb_per_s },
    Counter { title: "Memory of the proxy, KiB per idle client", of: |sample| sample.kib_per_client },
    Counter { title: "Memory of the proxy before they came, KiB", of: |sample| sample.kib_before },
];

/// One sample as it comes.
pub(crate) fn line(sample: &Sample) -> String {
    let mut text = format!("{:<7} {:<20} {:<12}", sample.stage, sample.workload, sample.contender);
    for (unit, value) in [
        ("tps", sample.tps),
        ("us p50", sample.p50_us),
        ("us p99", sample.p99_us),
        ("us CPU", sample.cpu_us),
        ("MB/s", sample.mb_per_s),
        ("us CPU/MB", sample.cpu_us_per_mb),
        ("KiB/client", sample.kib_per_client),
        ("KiB before", sample.kib_before),
    ] {
        if let Some(value) = value {
            let _ = write!(text, "  {value:.1} {unit}");
        }
    }
    text
}

pub(crate) fn write(directory: &Path, samples: &[Sample], notes: &[String]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("results.json"), serde_json::to_string_pretty(samples)?)?;
    fs::write(directory.join("results.md"), markdown(samples, notes))?;
    fs::write(directory.join("results.svg"), chart(samples))
}

fn markdown(samples: &[Sample], notes: &[String]) -> String {
    let mut text = String::from(
        "Each cell: median over the rounds; in brackets the ratio to PgBouncer in the same round, median (minimum to \
         maximum).\n",
    );
    for note in notes {
        let _ = writeln!(text, "\n{note}.");
    }
    for stage in ["pinned", "free"] {
        let of_stage: Vec<&Sample> = samples.iter().filter(|sample| sample.stage == stage).collect();
        for figure in FIGURES {
            table(&mut text, stage, figure, &of_stage);
        }
    }
    text
}

fn table(text: &mut String, stage: &str, figure: &Counter, samples: &[&Sample]) {
    let measured: Vec<&&Sample> = samples.iter().filter(|sample| (figure.of)(sample).is_some()).collect();
    if measured.is_empty() {
        return;
    }
    let mut contenders: Vec<&str> = Vec::new();
    for sample in &measured {
        if !contenders.contains(&sample.contender.as_str()) {
            contenders.push(&sample.contender);
        }
    }
    let _ = writeln!(text, "\n### {} ({stage})\n", figure.title);
    let _ = writeln!(text, "| workload | {} |", contenders.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(contenders.len()));
    for workload in WORKLOADS {
        let of = |contender: &str| values(&measured, figure, workload.name, contender);
        if contenders.iter().all(|contender| of(contender).is_empty()) {
            continue;
        }
        let reference = of(REFERENCE);
        let cells: Vec<String> =
            contenders.iter().map(|contender| cell(&of(contender), &reference)).collect();
        let _ = writeln!(text, "| {} | {} |", workload.about, cells.join(" | "));
    }
}

/// The values by round.
fn values(samples: &[&&Sample], figure: &Counter, workload: &str, contender: &str) -> Vec<(u32, f64)> {
    let is_it = |sample: &&&&Sample| sample.workload == workload && sample.contender == contender;
    samples.iter().filter(is_it).filter_map(|sample| Some((sample.round, (figure.of)(sample)?))).collect()
}

fn cell(values: &[(u32, f64)], reference: &[(u32, f64)]) -> String {
    let Some(middle) = median(values.iter().map(|(_, value)| *value).collect()) else {
        return "–".to_owned();
    };
    let ratios = ratios(values, reference);
    let shown = if middle < 100.0 { format!("{middle:.1}") } else { format!("{middle:.0}") };
    match (ratios.first(), median(ratios.clone()), ratios.last()) {
        (Some(least), Some(middle), Some(most)) => format!("{shown} [{middle:.2} ({least:.2} to {most:.2})]"),
        _ => shown,
    }
}

/// In ascending order.
fn ratios(values: &[(u32, f64)], reference: &[(u32, f64)]) -> Vec<f64> {
    let in_round = |round: u32| reference.iter().find(|(other, _)| *other == round).map(|(_, value)| *value);
    let mut ratios: Vec<f64> = values
        .iter()
        .filter_map(|(round, value)| Some(value / in_round(*round).filter(|known| *known > 0.0)?))
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

const BAR_HEIGHT: f64 = 12.0;
const GROUP_GAP: f64 = 14.0;
const LEFT: f64 = 380.0;
const UNIT: f64 = 220.0;
const COLOURS: &[(&str, &str)] = &[("freehold", "#0b6e4f"), (REFERENCE, "#8d99ae"), ("haproxy", "#c9ada7")];

/// CPU of each proxy as a share of PgBouncer's, pinned to one CPU: bars, shorter is better.
fn chart(samples: &[Sample]) -> String {
    let pinned: Vec<&Sample> = samples.iter().filter(|sample| sample.stage == "pinned").collect();
    let all: Vec<&&Sample> = pinned.iter().collect();
    let figures = [&FIGURES[0], &FIGURES[4]];
    let (mut bars, mut y) = (String::new(), 40.0);
    for workload in WORKLOADS {
        for figure in figures {
            let reference = values(&all, figure, workload.name, REFERENCE);
            if reference.is_empty() {
                continue;
            }
            let _ = writeln!(
                bars,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + BAR_HEIGHT * 2.0,
                workload.about
            );
            for (contender, colour) in COLOURS {
                let found = ratios(&values(&all, figure, workload.name, contender), &reference);
                if let Some(ratio) = median(found) {
                    bar(&mut bars, y, ratio, colour);
                }
                y += BAR_HEIGHT;
            }
            y += GROUP_GAP;
        }
    }
    let legend: String = COLOURS
        .iter()
        .enumerate()
        .map(|(index, (name, colour))| {
            let x = LEFT + 130.0 * index as f64;
            format!("<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"22\">{name}</text>\n", x + 18.0)
        })
        .collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {y}\" font-family=\"sans-serif\" font-size=\"12\" \
         fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"8\" y=\"22\">CPU of the proxy, PgBouncer = 1</text>\n\
         {legend}{bars}</svg>\n",
        LEFT + UNIT * 2.2
    )
}

fn bar(bars: &mut String, y: f64, ratio: f64, colour: &str) {
    let width = (ratio * UNIT).min(UNIT * 2.0);
    let _ = writeln!(
        bars,
        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\" \
         font-size=\"10\">{ratio:.2}</text>",
        BAR_HEIGHT - 2.0,
        LEFT + width + 4.0,
        y + BAR_HEIGHT - 3.0
    );
}
