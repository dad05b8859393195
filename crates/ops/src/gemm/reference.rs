//! What a product means: f64, three loops.

/// `c[m, n] = a[m, k] · b[k, n]`, all row-major.
pub fn product(m: usize, n: usize, k: usize, a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
        }
    }
    c
}

/// The transpose of a row-major `[rows, columns]` matrix.
pub fn transpose(rows: usize, columns: usize, a: &[f64]) -> Vec<f64> {
    (0..rows * columns).map(|i| a[(i % rows) * columns + i / rows]).collect()
}
