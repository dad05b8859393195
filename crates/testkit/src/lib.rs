//! What the tests of several crates share: the golden models of `testdata/golden`, their evaluation in f64 from
//! `testdata/exact`, comparisons with both, and a scripted server.
//!
//! Only test code depends on this crate, so whatever is wrong panics with what it was.

pub mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::{Load, Reader};
use config::ModelConfig;
use model::Model;
use serde_json::Value;

/// One folder of `testdata/golden`, whose README says what is in it.
pub struct Golden {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// `golden.json`.
    pub json: Value,
    /// `golden.safetensors`.
    pub tensors: Reader,
    /// The same tensors evaluated in f64 and rounded once to f32.
    exact: Reader,
    /// The entry of this model in `testdata/exact/exact.json`.
    exact_json: Value,
}

/// All golden models, sorted by name.
pub fn goldens() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
    let mut dirs: Vec<PathBuf> = fs_err::read_dir(root)
        .expect("testdata/golden is part of the project")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.is_dir())
        .collect();
    dirs.sort();
    let goldens: Vec<Golden> = dirs.into_iter().map(|dir| Golden::open(&dir)).collect();
    assert_eq!(goldens.len(), 18, "every golden model is there");
    goldens
}

impl Golden {
    fn open(dir: &Path) -> Self {
        let name = dir.file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
        let exact = dir.join("../../exact");
        Self {
            json: read_json(&dir.join("golden.json")),
            tensors: Reader::open_file(dir.join("golden.safetensors")).expect("golden.safetensors"),
            exact: Reader::open_file(exact.join(format!("{name}.safetensors"))).expect("an f64 evaluation"),
            exact_json: read_json(&exact.join("exact.json"))[&name].take(),
            dir: dir.to_owned(),
            name,
        }
    }

    /// The golden model called `name`.
    pub fn named(name: &str) -> Self {
        goldens().into_iter().find(|g| g.name == name).expect("a golden model of this name")
    }

    /// Its checkpoint, loaded in f32.
    pub fn model(&self) -> Model {
        self.load(Load::F32)
    }

    /// Its checkpoint as it is stored.
    pub fn stored_model(&self) -> Model {
        self.load(Load::AsStored)
    }

    fn load(&self, load: Load) -> Model {
        let config = ModelConfig::read(self.dir.join("config.json")).expect("config.json");
        let reader = Reader::open(&self.dir).expect("the checkpoint").with_dtype(load);
        Model::load(&config, &reader).expect("the checkpoint fits its config")
    }

    /// The text.
    pub fn input_ids(&self) -> Vec<u32> {
        self.ints("input_ids").into_iter().map(|id| u32::try_from(id).expect("an id")).collect()
    }

    /// An f32 tensor and its shape, if it is there.
    pub fn floats(&self, name: &str) -> Option<(Vec<f32>, Vec<usize>)> {
        let shape = self.tensors.tensors().find(|t| t.name == name)?.shape.to_vec();
        Some((self.tensors.values::<f32>(name, &shape).expect("f32 values"), shape))
    }

    /// What `floats(name)` would be without rounding errors: evaluated in f64, rounded once to f32.
    pub fn exact(&self, name: &str) -> Vec<f32> {
        let info = self.exact.tensors().find(|t| t.name == name).expect("a tensor of the f64 evaluation");
        self.exact.values::<f32>(name, info.shape).expect("f32 values")
    }

    /// The losses of the AdamW trajectory in f64, and how far each moves (relative) when every weight is changed by up to
    /// one unit in its last f32 place.
    pub fn exact_trajectory(&self) -> Vec<(f64, f64)> {
        let numbers = |key: &str| {
            let values = self.exact_json[key].as_array().expect("an array").iter();
            values.map(|v| v.as_f64().expect("a number")).collect::<Vec<_>>()
        };
        numbers("losses").into_iter().zip(numbers("sensitivity")).collect()
    }

    /// An integer tensor.
    pub fn ints(&self, name: &str) -> Vec<i32> {
        let info = self.tensors.tensors().find(|t| t.name == name).expect("an integer tensor");
        self.tensors.values::<i32>(name, info.shape).expect("i32 values")
    }

    /// The names that begin with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.tensors.tensors().filter_map(|t| t.name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// An object of numbers in `golden.json`.
    pub fn numbers(&self, key: &str) -> BTreeMap<String, f64> {
        let object = self.json[key].as_object().expect("an object");
        object.iter().map(|(k, v)| (k.clone(), v.as_f64().expect("a number"))).collect()
    }
}

fn read_json(path: &Path) -> Value {
    let text = fs_err::read_to_string(path).expect("a JSON file of testdata");
    serde_json::from_str(&text).expect("JSON")
}

/// The largest absolute difference.
pub fn max_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// The largest absolute value.
pub fn max_abs(a: &[f32]) -> f64 {
    a.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max)
}
