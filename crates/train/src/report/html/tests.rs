use super::*;

/// A short run with everything in it.
fn records() -> Vec<Record> {
    let mut records = Vec::new();
    for step in 1..=40 {
        records.push(Record::Step(StepMetrics {
            step,
            tokens: step * 512,
            loss: 8.0 / step as f64,
            main_loss: 6.0 / step as f64,
            mtp_loss: Some(7.0 / step as f64),
            lr: 1e-3,
            grad_norm: 1.0,
            tokens_per_s: 5000.0,
            mfu: 0.4,
            max_vio: vec![0.5, 0.25],
            expert_load: vec![vec![1, 2, 3, step], vec![4, 3, 2, 1]],
            elapsed_s: step as f64,
            ..StepMetrics::default()
        }));
    }
    let validation = ValidationMetrics { step: 40, tokens: 20_480, nats_per_token: 2.0, bits_per_byte: 1.0 };
    records.push(Record::Validation(validation));
    records.push(Record::Sample(Sample { step: 40, prompt: "1 + 1 =".into(), text: " 2".into() }));
    records.push(Record::Event(Event::CheckpointSaved { step: 40, path: "checkpoints/step-40".into() }));
    records.push(Record::Event(Event::Finished { step: 40 }));
    records
}

/// The values of all attributes `name="..."`.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let opening = format!(" {name}=\"");
    page.split(&opening).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The numbers behind each command of a path.
fn arguments(path: &str) -> impl Iterator<Item = Vec<i64>> {
    let numbers = path.split(|c: char| c.is_ascii_alphabetic()).skip(1);
    numbers.map(|numbers| numbers.split_whitespace().map(|number| number.parse().unwrap()).collect())
}

/// The chart with this title.
fn figure<'a>(page: &'a str, title: &str) -> &'a str {
    page.split("<figure").skip(1).find(|figure| figure.contains(&format!("<h2>{title}</h2>"))).unwrap()
}

/// Every point of every drawing is inside of it, and every place and size on the page is a number.
fn check_coordinates(page: &str) {
    for path in attributes(page, "d") {
        let spaced = path.replace('-', " -");
        let (mut x, mut y) = (0, 0);
        for command in spaced.split_inclusive(|c: char| c.is_ascii_alphabetic()).zip(arguments(&spaced)) {
            let (letter, numbers) = (command.0.chars().last().unwrap(), command.1);
            match letter {
                'M' => (x, y) = (numbers[0], numbers[1]),
                'h' => x += numbers[0],
                'v' => y += numbers[0],
                'z' => {}
                'l' => {
                    for delta in numbers.chunks(2) {
                        (x, y) = (x + delta[0], y + delta[1]);
                        assert!((0..=2000).contains(&x) && (0..=600).contains(&y), "{x} {y} in {path}");
                    }
                }
                _ => panic!("{letter} in {path}"),
            }
            assert!((0..=2000).contains(&x) && (0..=600).contains(&y), "{x} {y} in {path}");
        }
    }
    for style in attributes(page, "style") {
        for declaration in style.split(';') {
            let value = declaration.split_once(':').unwrap().1.trim_end_matches("px");
            let share = value.strip_suffix('%');
            let number = share.unwrap_or(value).parse::<f64>().unwrap();
            assert!(number.is_finite() && number >= 0.0 && (share.is_none() || number <= 100.0), "{style}");
        }
    }
}

#[test]
fn every_chart_has_its_lines() {
    let page = render(&RunSummary { total_steps: 40, total_tokens: 20_480, ..RunSummary::default() }, &records());
    check_coordinates(&page);
    for title in ["Loss", "Learning rate", "Gradient norm", "Throughput", "MFU", "Expert imbalance", "Balance loss"] {
        assert!(attributes(figure(&page, title), "d").iter().any(|line| line.contains('l')), "{title} has no line");
    }
    assert!(!page.contains("nothing measured"));
    for text in ["finished", "step 40 of 40", "busiest: expert 3", "1 + 1 =", "checkpoints/step-40"] {
        assert!(page.contains(text), "{text} is missing");
    }
}

#[test]
fn coordinates_are_finite_whatever_was_measured() {
    let numbers =
        [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324];
    let step = |step: u64, number: f64| {
        let load = if number > 1.0 { u64::MAX } else { 0 };
        Record::Step(StepMetrics {
            step,
            tokens: step,
            loss: number,
            main_loss: number,
            mtp_loss: Some(number),
            balance_loss: number,
            lr: number,
            grad_norm: number,
            batch_sequences: 1,
            tokens_per_s: number,
            mfu: number,
            max_vio: vec![number, 1.0],
            expert_load: vec![vec![load, 1, 1], vec![], vec![0, load]],
            elapsed_s: number,
        })
    };
    let validation = |step: u64, number: f64| {
        Record::Validation(ValidationMetrics { step, tokens: step, nats_per_token: number, bits_per_byte: number })
    };
    for first in numbers {
        let row =
            EvaluationRow { exact_match: first, interval: (first, -first), baseline: first, ..Default::default() };
        let summary = RunSummary { evaluation: vec![row], ..RunSummary::default() };
        check_coordinates(&render(&summary, &[]));
        check_coordinates(&render(&summary, &[step(1, first)]));
        check_coordinates(&render(&summary, &[validation(u64::MAX, first)]));
        for second in numbers {
            let records = [step(1, first), step(2, second), validation(2, second), step(3, first), step(3, second)];
            check_coordinates(&render(&summary, &records));
        }
    }
}

#[test]
fn a_run_that_has_not_begun_has_a_page() {
    let page = render(&RunSummary::default(), &[]);
    check_coordinates(&page);
    assert_eq!(page.matches("nothing measured yet").count(), 8);
    assert!(page.contains("running"));
}

#[test]
fn no_text_becomes_markup_and_nothing_is_loaded() {
    let evil = |i: u32| format!("<evil{i} onload='x' \"&amp;\u{0}");
    let summary = RunSummary {
        name: evil(0),
        facts: vec![(evil(1), evil(2))],
        recipe: evil(3),
        evaluation: vec![EvaluationRow { register: evil(4), ..EvaluationRow::default() }],
        ..RunSummary::default()
    };
    let mut records = records();
    records.push(Record::Sample(Sample { step: 40, prompt: evil(5), text: evil(6) }));
    records.push(Record::Event(Event::CheckpointSaved { step: 40, path: evil(7) }));
    records.push(Record::Event(Event::Resumed { step: 40, path: evil(8) }));
    records.push(Record::Event(Event::NotFinite { step: 40, quantity: evil(9), batch: evil(10) }));
    records.push(Record::Event(Event::LossSpike { step: 40, loss: 1.0, expected: 1.0, batch: evil(11) }));
    let page = render(&summary, &records);
    for i in 0..=11 {
        let escaped = format!("&lt;evil{i} onload=&#39;x&#39; &quot;&amp;amp;\u{fffd}");
        assert!(page.contains(&escaped), "text {i} is missing");
    }
    for forbidden in ["<evil", "'x'", "\u{0}", "<script", "<link", "<img", "http:", "https:", "url(", "@import", "src="]
    {
        assert!(!page.contains(forbidden), "{forbidden} is in the page");
    }
}

#[test]
fn a_long_run_has_a_small_page_that_keeps_the_spike() {
    let steps = (1..=20_000).map(|step| {
        let grad_norm = if step == 12_345 { 500.0 } else { 1.0 + (step % 7) as f64 };
        Record::Step(StepMetrics { step, grad_norm, max_vio: vec![0.1; 60], ..StepMetrics::default() })
    });
    let page = render(&RunSummary::default(), &steps.collect::<Vec<_>>());
    check_coordinates(&page);
    assert!(page.len() < 600_000, "{} bytes", page.len());
    let raw =
        figure(&page, "Gradient norm").split("<path class=\"raw\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    // The spike alone makes the scale logarithmic, and its neighbours are two decades below.
    let deltas = raw.split_once('l').unwrap().1.split_whitespace().map(|n| n.parse::<i64>().unwrap());
    let rises = deltas.skip(1).step_by(2).filter(|rise| *rise < -300).count();
    assert_eq!(rises, 1, "the spike is drawn once");
}

#[test]
fn the_page_is_drawn_at_the_interval_and_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.html");
    let hour = Duration::from_hours(1);
    let mut report = HtmlReport::new(path.clone(), RunSummary::default(), History::default(), hour);
    report.on_step(&StepMetrics { step: 1, ..StepMetrics::default() }).unwrap();
    let first = fs_err::read_to_string(&path).unwrap();
    report.on_step(&StepMetrics { step: 2, ..StepMetrics::default() }).unwrap();
    assert_eq!(fs_err::read_to_string(&path).unwrap(), first);
    report.finish().unwrap();
    assert!(fs_err::read_to_string(&path).unwrap().contains("step 2 of"));
    assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1, "a partial file is left");

    let missing = directory.path().join("missing").join("report.html");
    let error = write(&missing, &RunSummary::default(), &History::default()).unwrap_err();
    assert!(matches!(error, Error::Write { path, .. } if path == missing));
}
