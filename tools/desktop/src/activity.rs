//! What the model does as it writes: experts that were asked, drafts, speed.
//!
//! Decides what is remembered and how it fades; times are seconds of one clock that the caller
//! has. Must not know how it is painted.

use std::collections::VecDeque;

use hadal::{DraftCounts, Route};

/// Seconds after which an expert glows a third as much.
const FADE: f64 = 0.7;
/// Below this nothing is seen.
const DARK: f32 = 0.02;
/// Steps of drafting that are remembered.
const STEPS: usize = 160;
/// Seconds over which speed is averaged.
const WINDOW: f64 = 0.5;
/// Seconds between two points of the curve.
const EVERY: f64 = 0.1;
/// Points of the curve.
const POINTS: usize = 240;

/// One expert.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// When it was asked last.
    asked: f64,
    /// The glow then: each time it is asked adds its share of the layer's largest weight.
    glow: f32,
    /// How often it was asked.
    count: u64,
}

/// Drafts of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Accepted.
    pub accepted: u64,
    /// Rejected.
    pub rejected: u64,
}

/// What happened since the model was loaded.
#[derive(Default)]
pub struct Activity {
    /// Layers with experts, by their numbers.
    layers: Vec<u32>,
    experts: usize,
    /// Layer by layer.
    cells: Vec<Cell>,
    steps: VecDeque<Step>,
    drafts: DraftCounts,
    /// Of the answers before this one.
    earlier: DraftCounts,
    /// When tokens came, and how many.
    recent: VecDeque<(f64, usize)>,
    curve: VecDeque<f32>,
    sampled: f64,
    answer_began: f64,
}

impl Activity {
    /// For a model with `layers` of `experts` each.
    pub fn new(layers: Vec<u32>, experts: usize) -> Activity {
        Activity {
            cells: vec![Cell::default(); layers.len() * experts],
            layers,
            experts,
            ..Activity::default()
        }
    }

    /// Layers with experts, by their numbers.
    pub fn layers(&self) -> &[u32] {
        &self.layers
    }

    /// Experts of each.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// An answer begins.
    pub fn begin(&mut self, now: f64) {
        self.earlier = self.drafts;
        self.recent.clear();
        self.answer_began = now;
    }

    /// Layers asked their experts. Those of layers that are not shown are not counted.
    pub fn routes(&mut self, routes: &[Route], now: f64) {
        for route in routes {
            let Some(row) = self.layers.iter().position(|&layer| layer == route.layer) else {
                continue;
            };
            let most = route
                .weights
                .iter()
                .copied()
                .fold(f32::MIN_POSITIVE, f32::max);
            for (&expert, &weight) in route.experts.iter().zip(&route.weights) {
                if expert as usize >= self.experts {
                    continue;
                }
                let cell = &mut self.cells[row * self.experts + expert as usize];
                cell.glow = glow(cell, now) + (weight / most).clamp(0.35, 1.0);
                cell.asked = now;
                cell.count += 1;
            }
        }
    }

    /// Drafts so far, of this answer.
    pub fn drafts(&mut self, counts: DraftCounts) {
        let before = self.drafts;
        self.drafts = DraftCounts {
            drafted: self.earlier.drafted + counts.drafted,
            accepted: self.earlier.accepted + counts.accepted,
        };
        let drafted = self.drafts.drafted.saturating_sub(before.drafted);
        let accepted = self.drafts.accepted.saturating_sub(before.accepted);
        if drafted > 0 || accepted > 0 {
            self.steps.push_back(Step {
                accepted,
                rejected: drafted.saturating_sub(accepted),
            });
        }
        while self.steps.len() > STEPS {
            self.steps.pop_front();
        }
    }

    /// So many tokens came.
    pub fn tokens(&mut self, count: usize, now: f64) {
        if count > 0 {
            self.recent.push_back((now, count));
        }
        self.sample(now);
    }

    fn sample(&mut self, now: f64) {
        while self
            .recent
            .front()
            .is_some_and(|(time, _)| now - time > WINDOW)
        {
            self.recent.pop_front();
        }
        if now - self.sampled < EVERY {
            return;
        }
        self.sampled = now;
        self.curve.push_back(self.tokens_per_second(now));
        while self.curve.len() > POINTS {
            self.curve.pop_front();
        }
    }

    /// Tokens a second, lately.
    pub fn tokens_per_second(&self, now: f64) -> f32 {
        let counted = self.recent.iter().filter(|(time, _)| now - time <= WINDOW);
        let tokens: usize = counted.map(|(_, count)| count).sum();
        let seconds = (now - self.answer_began).clamp(0.05, WINDOW);
        (tokens as f64 / seconds) as f32
    }

    /// Speed over time, the newest last.
    pub fn curve(&self) -> &VecDeque<f32> {
        &self.curve
    }

    /// Drafts of the latest steps, the newest last.
    pub fn steps(&self) -> &VecDeque<Step> {
        &self.steps
    }

    /// All drafts since the model was loaded.
    pub fn draft_counts(&self) -> DraftCounts {
        self.drafts
    }

    /// How bright each expert is, 0 to 1, layer by layer. One that was asked once shines; where
    /// tokens come faster than it fades, the one that is asked most does, and others by how much
    /// less they are asked.
    pub fn brightness(&self, now: f64) -> Vec<f32> {
        let glows = self.cells.iter().map(|cell| glow(cell, now));
        let glows: Vec<f32> = glows.collect();
        let most = glows.iter().copied().fold(1.0, f32::max);
        let shown = glows.iter().map(|glow| match glow / most {
            faint if faint < DARK => 0.0,
            bright => bright,
        });
        shown.collect()
    }

    /// Whether anything still shines.
    pub fn is_lit(&self, now: f64) -> bool {
        self.brightness(now).iter().any(|&bright| bright > 0.0)
    }

    /// How often each expert was asked: of the layer in `row`, or of all.
    pub fn loads(&self, row: Option<usize>) -> Vec<u64> {
        let mut loads = vec![0; self.experts];
        for (index, cells) in self.cells.chunks(self.experts.max(1)).enumerate() {
            if row.is_none_or(|row| row == index) {
                for (load, cell) in loads.iter_mut().zip(cells) {
                    *load += cell.count;
                }
            }
        }
        loads
    }
}

fn glow(cell: &Cell, now: f64) -> f32 {
    cell.glow * (-(now - cell.asked).max(0.0) / FADE).exp() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(layer: u32, experts: &[u32], weights: &[f32]) -> Route {
        Route {
            layer,
            position: 0,
            token: 0,
            experts: experts.to_vec(),
            weights: weights.to_vec(),
        }
    }

    #[test]
    fn experts_shine_by_weight_fade_and_are_counted() {
        let mut activity = Activity::new(vec![1, 2], 4);
        let routes = [route(2, &[3, 0], &[1.0, 0.5]), route(9, &[1], &[1.0])];
        activity.routes(&routes, 10.0);
        let shown = activity.brightness(10.0);
        assert_eq!(shown, [0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 1.0]);
        let later = activity.brightness(10.0 + FADE)[7];
        assert!((later - (-1.0f32).exp()).abs() < 1e-5);
        assert!(activity.is_lit(11.0) && !activity.is_lit(15.0));
        // Asked twice while it glows: the others pale.
        activity.routes(&[route(2, &[3, 1], &[1.0, 1.0])], 10.0);
        let shown = activity.brightness(10.0);
        assert_eq!(shown, [0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.0, 1.0]);
        assert_eq!(activity.loads(None), [1, 1, 0, 2]);
        assert_eq!(activity.loads(Some(0)), [0; 4]);
        // An expert that there is not.
        activity.routes(&[route(1, &[4], &[1.0])], 10.0);
        assert_eq!(activity.loads(None), [1, 1, 0, 2]);
    }

    #[test]
    fn drafts_are_told_apart_by_step_over_several_answers() {
        let mut activity = Activity::new(vec![1], 1);
        let counts = |drafted, accepted| DraftCounts { drafted, accepted };
        activity.begin(0.0);
        activity.drafts(counts(1, 1));
        activity.drafts(counts(3, 1));
        activity.begin(1.0);
        activity.drafts(counts(1, 0));
        let step = |accepted, rejected| Step { accepted, rejected };
        assert_eq!(*activity.steps(), [step(1, 0), step(0, 2), step(0, 1)]);
        assert_eq!(activity.draft_counts(), counts(4, 1));
        for drafted in 2..400 {
            activity.drafts(counts(drafted, 0));
        }
        assert_eq!(activity.steps().len(), STEPS);
    }

    #[test]
    fn speed_is_of_the_last_half_second() {
        let mut activity = Activity::new(vec![], 0);
        activity.begin(0.0);
        for step in 1..=100 {
            activity.tokens(2, f64::from(step) * 0.02);
        }
        let speed = activity.tokens_per_second(2.0);
        assert!((90.0..=105.0).contains(&speed), "{speed}");
        assert_eq!(activity.tokens_per_second(9.0), 0.0);
        assert!(
            (15..=21).contains(&activity.curve().len()),
            "{}",
            activity.curve().len()
        );
    }
}
