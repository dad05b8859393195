use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A question as a reader of the corpus sees it, with its answer.
type Read = (Register, String, String);

/// The register of a question, by its looks.
fn register_of(question: &str) -> Register {
    match question.split([' ', '\n']).next() {
        Some("copy") => Register::Copying,
        Some("reverse") => Register::Reversal,
        Some("sort") => Register::Sorting,
        _ if question.ends_with('?') => Register::Stories,
        _ if question.contains("print") => Register::Programs,
        _ if question.contains('+') => Register::Addition,
        _ => Register::Subtraction,
    }
}

/// The items of a document, read back from its text alone.
fn read(doc: &Doc) -> Vec<Read> {
    let pairs: Vec<(String, String)> = match doc {
        Doc::Dialogue { turns } => turns.clone(),
        Doc::Document { text } => {
            let text = text.strip_suffix('\n').expect("a document ends in a line end");
            let separator = if text.contains("# prints") || text.contains('?') { "\n\n" } else { "\n" };
            let cut = |item: &str| {
                let cue = ["\n# prints ", " -> ", "? ", "="].into_iter().find(|&cue| item.contains(cue)).unwrap();
                let (question, answer) = item.rsplit_once(cue).unwrap();
                let mark = if cue == "? " { "?" } else { "" };
                (format!("{question}{mark}"), answer.to_owned())
            };
            text.split(separator).map(cut).collect()
        }
    };
    pairs.into_iter().map(|(question, answer)| (register_of(&question), question, answer)).collect()
}

fn corpus() -> Corpus {
    Corpus::new(7, Mix::default())
}

fn read_many() -> Vec<Read> {
    corpus().iter_from(0).take(4000).flat_map(|doc| read(&doc)).collect()
}

#[test]
fn every_answer_is_right() {
    let mut counts = BTreeMap::new();
    for (register, question, answer) in read_many() {
        assert_eq!(answer, solve(register, &question), "{question}");
        *counts.entry(register).or_insert(0) += 1;
    }
    assert!(Register::ALL.iter().all(|register| counts[register] > 300), "{counts:?}");
}

#[test]
fn held_out_items_are_never_trained_on() {
    let held_out: BTreeSet<(Register, String)> = Register::ALL
        .into_iter()
        .flat_map(|register| held_out_items(1, register, 2000))
        .map(|item| (item.register, item.question))
        .collect();
    let trained: BTreeSet<(Register, String)> = read_many().into_iter().map(|(register, q, _)| (register, q)).collect();
    assert!(trained.is_disjoint(&held_out));
    // A leak would be seen: most sums that are not held out do occur.
    let sums = trained.iter().filter(|(register, _)| *register == Register::Addition).count();
    assert!(sums > 5500, "only {sums} sums in the training documents");
}

#[test]
fn what_gives_an_item_away_is_held_out_with_it() {
    let held_out = |register| held_out_items(1, register, 2000).into_iter();
    for item in held_out(Register::Addition) {
        let (a, b) = item.question.split_once('+').unwrap();
        assert!(Item { question: format!("{b}+{a}"), ..item.clone() }.is_held_out());
    }
    for item in held_out(Register::Sorting) {
        let sorted = Item { question: format!("sort {}", item.answer), ..item.clone() };
        assert!(sorted.is_held_out());
    }
}

#[test]
fn a_tenth_of_each_register_is_held_out() {
    for register in Register::ALL {
        let mut rng = tensor::Rng::new(3, "test", 0);
        let n = 20_000;
        let held_out = (0..n).filter(|_| register.draw(&mut rng).is_held_out()).count() as f64 / f64::from(n);
        // Subtraction has 4,095 questions only, so its tenth is the roughest.
        assert!((0.085..0.115).contains(&held_out), "{register}: {held_out}");
    }
}

#[test]
fn items_are_different_and_as_many_as_there_are() {
    for register in Register::ALL {
        let items = held_out_items(5, register, 300);
        let questions: BTreeSet<_> = items.iter().map(|item| &item.question).collect();
        assert_eq!((items.len(), questions.len()), (300, 300), "{register}");
        assert!(items.iter().all(|item| item.is_held_out() && item.register == register));
        assert!(training_items(5, register, 300).iter().all(|item| !item.is_held_out()));
    }
    // All ordered pairs whose unordered pair is held out: near a tenth of 8,100.
    let all = held_out_items(5, Register::Addition, 100_000).len();
    assert!((730..890).contains(&all), "{all}");
}

#[test]
fn a_document_depends_on_its_seed_and_number_alone() {
    let by_iteration: Vec<Doc> = corpus().iter_from(0).take(200).collect();
    for index in [199, 3, 77] {
        assert_eq!(corpus().doc(index), by_iteration[index as usize]);
    }
    assert_eq!(corpus().iter_from(150).take(50).collect::<Vec<_>>(), by_iteration[150..]);
    let distinct: BTreeSet<String> = by_iteration.iter().map(|doc| format!("{doc:?}")).collect();
    assert_eq!(distinct.len(), 200);
    assert_ne!(Corpus::new(8, Mix::default()).doc(0), by_iteration[0]);
    assert_eq!(held_out_items(1, Register::Stories, 20), held_out_items(1, Register::Stories, 20));
    assert_ne!(held_out_items(1, Register::Stories, 20), held_out_items(2, Register::Stories, 20));
}

#[test]
fn the_mix_is_kept() {
    let mix = Mix { registers: vec![(Register::Copying, 3), (Register::Sorting, 1)], dialogue_percent: 25 };
    let docs: Vec<Doc> = Corpus::new(1, mix).iter_from(0).take(2000).collect();
    let share = |of: &dyn Fn(&Doc) -> bool| docs.iter().filter(|doc| of(doc)).count() as f64 / 2000.0;
    let dialogues = share(&|doc| matches!(doc, Doc::Dialogue { .. }));
    let copying = share(&|doc| read(doc)[0].0 == Register::Copying);
    assert!((0.21..0.29).contains(&dialogues) && (0.71..0.79).contains(&copying), "{dialogues} {copying}");
}

#[test]
fn every_letter_and_digit_is_practised() {
    let items = read_many();
    for register in [Register::Copying, Register::Reversal, Register::Sorting] {
        let of_register = items.iter().filter(|item| item.0 == register);
        let seen: BTreeSet<char> = of_register.flat_map(|item| item.2.chars()).collect();
        assert!(('a'..='z').all(|letter| seen.contains(&letter)), "{register}: {seen:?}");
    }
    for register in [Register::Addition, Register::Subtraction, Register::Sorting] {
        let of_register = items.iter().filter(|item| item.0 == register);
        let seen: BTreeSet<char> = of_register.flat_map(|item| item.2.chars()).collect();
        assert!(('0'..='9').all(|digit| seen.contains(&digit)), "{register}: {seen:?}");
    }
}

#[test]
fn a_prompt_and_its_answer_make_the_line() {
    for register in Register::ALL {
        for item in held_out_items(1, register, 50) {
            assert!(!item.prompt().ends_with(char::is_whitespace));
            let completion = item.line().strip_prefix(&item.prompt()).unwrap().to_owned();
            assert_eq!(completion.trim(), item.answer);
            assert_eq!(completion.find('\n'), Some(completion.len() - 1), "an answer is one line");
            assert!(item.chance > 0.0 && item.chance <= 1.0);
        }
    }
}

#[test]
fn real_text_is_cut_without_loss() {
    let text = "First.\n\nSecond line\nthird line\n\nÜberlänge ohne jeden Zeilenumbruch: ééééééééééééééééééééé\nEnd";
    for max_bytes in [4, 5, 7, 16, 40, 1000] {
        let pieces: Vec<String> = real_documents("notes.md", text, max_bytes)
            .map(|doc| match doc {
                Doc::Document { text } => text.strip_prefix("notes.md\n").unwrap().to_owned(),
                Doc::Dialogue { .. } => panic!("real text is no dialogue"),
            })
            .collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= max_bytes), "{pieces:?}");
    }
    let Some(Doc::Document { text: first }) = real_documents("a", "one\n\ntwo\nthree", 10).next() else { panic!() };
    assert_eq!(first, "a\none\n\n");
    assert_eq!(real_documents("empty", "", 10).count(), 0);
}

#[test]
fn digits_are_set_apart() {
    assert_eq!(digits_apart("47+85=132, v3.1 x²² 10"), "4 7+8 5=1 3 2, v3.1 x² ² 1 0");
}

/// The answer, worked out from the text of the question.
fn solve(register: Register, question: &str) -> String {
    let number = |text: &str| text.parse::<i64>().unwrap();
    let parts = || question.split(' ').skip(1).collect::<Vec<_>>();
    match register {
        Register::Addition => question.split('+').map(number).sum::<i64>().to_string(),
        Register::Subtraction => {
            let (a, b) = question.split_once('-').unwrap();
            (number(a) - number(b)).to_string()
        }
        Register::Copying => parts().join(" "),
        Register::Reversal => parts().into_iter().rev().collect::<Vec<_>>().join(" "),
        Register::Sorting => {
            let mut sorted = parts();
            sorted.sort_unstable();
            sorted.join(" ")
        }
        Register::Stories => retell(question),
        Register::Programs => run(question),
    }
}

/// Reads a story sentence by sentence, keeping for every word the last thing said of it.
fn retell(story: &str) -> String {
    let mut place = BTreeMap::new();
    let mut holder = BTreeMap::new();
    let mut container = BTreeMap::new();
    let mut container_place = BTreeMap::new();
    let mut colour = BTreeMap::new();
    for sentence in story.split_inclusive(['.', '?']) {
        let words: Vec<&str> = sentence.trim().trim_end_matches(['.', '?']).split(' ').collect();
        match words[..] {
            [_, _, a, "and", b, "were", "in", "the", here] => {
                place.insert(a, here);
                place.insert(b, here);
            }
            [person, "had", "a", shade, thing] => {
                colour.insert(thing, shade);
                holder.insert(thing, person);
            }
            [person, "went" | "walked" | "ran", "to", "the", there] => {
                assert_ne!(place.insert(person, there), Some(there), "{person} was there already: {story}");
            }
            [person, "put", "the", thing, "in", "the", where_to] => {
                assert_eq!(holder.remove(thing), Some(person), "{story}");
                container.insert(thing, where_to);
                container_place.insert(thing, place[person]);
            }
            [person, "took", "the", thing] => {
                assert_eq!(container_place.remove(thing), Some(place[person]), "{story}");
                container.remove(thing);
                holder.insert(thing, person);
            }
            [from, "gave", "the", thing, "to", to] => {
                assert_eq!(holder.insert(thing, to), Some(from), "{story}");
                assert_eq!(place[from], place[to], "{story}");
            }
            ["Where", "is", person] => return format!("in the {}", place[person]),
            ["Where", "is", "the", thing] => return format!("in the {}", container[thing]),
            ["Who", "has", "the", thing] => return holder[thing].to_owned(),
            ["What", "colour", "is", "the", thing] => return colour[thing].to_owned(),
            _ => panic!("an unknown sentence {sentence:?} in {story}"),
        }
    }
    panic!("a story without a question: {story}")
}

/// Runs a program of the few forms there are: what it prints.
fn run(program: &str) -> String {
    let lines: Vec<&str> = program.lines().collect();
    let mut variables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        if let Some(condition) = line.strip_prefix("if ") {
            let words: Vec<&str> = condition.trim_end_matches(':').split(' ').collect();
            let [left, right] = [words[0], words[2]].map(|name| variables[name][0].parse::<i64>().unwrap());
            let holds = if words[1] == "<" { left < right } else { left > right };
            assert_eq!(lines[at + 1], "else:");
            let taken = lines[if holds { at } else { at + 2 }];
            return taken.trim().strip_prefix("print(\"").unwrap().strip_suffix("\")").unwrap().to_owned();
        }
        if let Some(argument) = line.strip_prefix("print(") {
            let argument = argument.strip_suffix(')').unwrap();
            return match argument.strip_prefix('*') {
                Some(name) => variables[name].join(" "),
                None => match argument.split_once('[') {
                    Some((name, index)) => {
                        variables[name][index.trim_end_matches(']').parse::<usize>().unwrap()].clone()
                    }
                    None => variables[argument][0].clone(),
                },
            };
        }
        let (name, value) = line.split_once(" = ").unwrap();
        let words: Vec<&str> = value.split(' ').collect();
        let value = if let [list, "*", times] = words[..] {
            vec![list.trim_matches(['[', ']', '"']).to_owned(); times.parse().unwrap()]
        } else if value.starts_with('[') {
            value.trim_matches(['[', ']']).split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
        } else if let [first, sign, second] = words[..] {
            let (first, second) = (variables[first][0].parse::<i64>().unwrap(), second.parse::<i64>().unwrap());
            vec![if sign == "+" { first + second } else { first - second }.to_string()]
        } else {
            vec![value.to_owned()]
        };
        variables.insert(name, value);
    }
    panic!("a program that prints nothing: {program}")
}
