//! Whether proposing tokens pays: measured while answers are made, for itself.
//!
//! A step with proposals takes longer and gives more tokens where they are accepted. How much of both depends on the model,
//! the machine, the text and on how many answers share a step. So both ways are tried for some steps, the faster one is
//! kept for many, and then the other is tried again. Where hardly any proposal is accepted there is nothing to gain, whatever
//! it costs, and nothing is tried for long. Answers are the same either way.

/// Whether the first MTP layer proposes tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtp {
    /// While it is measured to make answers faster.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Steps that a way is tried for.
const TRIAL: u32 = 16;
/// Steps that the faster way is kept for.
const KEPT: u32 = 512;
/// Numbers of answers in a step that are told apart: 1, 2 to 3, 4 to 7 and so on.
const SIZES: usize = 8;

/// Proposals after which it is known how many of them are accepted,
const ENOUGH: u64 = 24;
/// and the part of them below which they cannot pay: so much more is the most that they give.
const HOPELESS: f64 = 0.05;

pub(crate) struct Gauge {
    mode: Mtp,
    sizes: [Size; SIZES],
    /// Since proposals were last tried.
    proposed: u64,
    accepted: u64,
}

/// What a step gave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step {
    /// Answers in it.
    pub(crate) answers: usize,
    /// Tokens of all of them.
    pub(crate) tokens: u64,
    pub(crate) proposed: u64,
    pub(crate) accepted: u64,
    pub(crate) seconds: f64,
}

/// What is known of steps with so many answers.
#[derive(Clone, Copy)]
struct Size {
    /// Tokens of an answer in a second, without proposals and with them; 0 before the first trial.
    rates: [f64; 2],
    /// The way of these steps, and how many of them are left.
    proposes: bool,
    left: u32,
    is_trial: bool,
    tokens: f64,
    seconds: f64,
}

impl Gauge {
    pub(crate) fn new(mode: Mtp) -> Self {
        let size = Size { rates: [0.0; 2], proposes: true, left: TRIAL, is_trial: true, tokens: 0.0, seconds: 0.0 };
        Self { mode, sizes: [size; SIZES], proposed: 0, accepted: 0 }
    }

    /// Whether a step with so many answers is to have proposals.
    pub(crate) fn proposes(&self, answers: usize) -> bool {
        match self.mode {
            Mtp::On => true,
            Mtp::Off => false,
            Mtp::Auto => self.sizes[size(answers)].proposes,
        }
    }

    /// Takes note of a step.
    pub(crate) fn note(&mut self, step: Step) {
        if self.mode != Mtp::Auto || step.answers == 0 {
            return;
        }
        self.proposed += step.proposed;
        self.accepted += step.accepted;
        let size = &mut self.sizes[size(step.answers)];
        let before = size.proposes;
        size.note(step.tokens as f64 / step.answers as f64, step.seconds);
        if size.proposes && !before {
            // The text may be another one by now.
            (self.proposed, self.accepted) = (0, 0);
        } else if self.proposed >= ENOUGH && (self.accepted as f64) < HOPELESS * self.proposed as f64 {
            self.sizes.iter_mut().filter(|size| size.proposes).for_each(Size::give_up);
        }
    }

    /// How many times as fast answers alone are made with proposals, if both ways were tried.
    pub(crate) fn speedup(&self) -> Option<f64> {
        let [without, with] = self.sizes[0].rates;
        (without > 0.0 && with > 0.0).then(|| with / without)
    }
}

impl Size {
    /// Does without proposals for long.
    fn give_up(&mut self) {
        *self = Self { proposes: false, left: KEPT, is_trial: false, tokens: 0.0, seconds: 0.0, ..*self };
    }

    fn note(&mut self, tokens: f64, seconds: f64) {
        self.tokens += tokens;
        self.seconds += seconds;
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        self.rates[usize::from(self.proposes)] = self.tokens / self.seconds.max(f64::MIN_POSITIVE);
        (self.tokens, self.seconds) = (0.0, 0.0);
        let other_is_known = self.rates[usize::from(!self.proposes)] > 0.0;
        if self.is_trial && other_is_known {
            let [without, with] = self.rates;
            (self.proposes, self.left, self.is_trial) = (with > without, KEPT, false);
        } else {
            (self.proposes, self.left, self.is_trial) = (!self.proposes, TRIAL, true);
        }
    }
}

fn size(answers: usize) -> usize {
    (answers.max(1).ilog2() as usize).min(SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps with proposals among `n`, where those give `with` tokens a second and others `without`.
    fn run(gauge: &mut Gauge, n: usize, with: f64, without: f64) -> usize {
        let mut proposed = 0;
        for _ in 0..n {
            let proposes = gauge.proposes(1);
            proposed += usize::from(proposes);
            let (proposed, accepted) = if proposes { (1, 1) } else { (0, 0) };
            let seconds = 1.0 / if proposes { with } else { without };
            gauge.note(Step { answers: 1, tokens: 1, proposed, accepted, seconds });
        }
        proposed
    }

    #[test]
    fn the_faster_way_is_kept_and_the_other_tried_again() {
        let mut gauge = Gauge::new(Mtp::Auto);
        let cycle = (TRIAL + KEPT) as usize;
        assert_eq!(run(&mut gauge, cycle + TRIAL as usize, 2.0, 1.0), cycle);
        assert_eq!(gauge.speedup(), Some(2.0));
        // From now on it loses, as at the change of a text. What was kept is measured too.
        run(&mut gauge, cycle, 0.5, 1.0);
        assert_eq!(run(&mut gauge, cycle, 0.5, 1.0), 0);
        assert_eq!(run(&mut gauge, cycle, 0.5, 1.0), TRIAL as usize);
        assert_eq!(gauge.speedup(), Some(0.5));
        assert!(gauge.proposes(64), "larger steps are apart");
    }

    #[test]
    fn what_is_never_accepted_is_not_tried_for_long() {
        let mut gauge = Gauge::new(Mtp::Auto);
        let run = |gauge: &mut Gauge, answers: usize, n: usize| {
            let step = |proposes: bool| {
                let proposed = if proposes { answers as u64 } else { 0 };
                Step { answers, tokens: answers as u64, proposed, accepted: proposed / 30, seconds: 1.0 }
            };
            let mut proposed = 0;
            for _ in 0..n {
                let proposes = gauge.proposes(answers);
                proposed += usize::from(proposes);
                gauge.note(step(proposes));
            }
            proposed
        };
        assert_eq!(run(&mut gauge, 32, 100), 1);
        assert_eq!(run(&mut gauge, 8, KEPT as usize), 0, "steps of another size need not find it out");
        // When it has been left alone for long, it is tried again.
        assert_eq!(run(&mut gauge, 8, 100), 3);
    }

    #[test]
    fn always_is_always_and_never_never() {
        for (mode, want) in [(Mtp::On, 50), (Mtp::Off, 0)] {
            let mut gauge = Gauge::new(mode);
            assert_eq!((run(&mut gauge, 50, 1.0, 2.0), gauge.speedup()), (want, None));
        }
    }
}
