use tensor::Ctx;

use super::arithmetic::{self, Kind};
use super::{caches, job, memory};

#[test]
fn every_processor_multiplies_f32_and_absent_is_no_number() {
    let ctx = Ctx::new(2).unwrap();
    for threads in [1, 2] {
        let rate = arithmetic::measure(&ctx, threads, Kind::F32, 2).unwrap();
        assert!(rate.min() > 1e6 && rate.max() < 1e15, "{rate:?}");
        for (kind, is_there) in [(Kind::Bf16, has_bf16()), (Kind::Int8, has_vnni())] {
            assert_eq!(arithmetic::measure(&ctx, threads, kind, 1).is_some(), is_there, "{kind:?}");
        }
    }
}

#[test]
fn memory_is_read_whole_and_cannot_lie_in_the_caches() {
    let found = caches::Found { level: 3, size_bytes: 96 << 20, shared_by: 8 };
    assert_eq!(memory::size_bytes(&[], 4), 256 << 20);
    assert_eq!(memory::size_bytes(&[found], 8), 384 << 20);
    assert_eq!(memory::size_bytes(&[found], 9), 768 << 20, "the ninth thread has another cache");

    let ctx = Ctx::new(2).unwrap();
    let data = memory::fill(&ctx, (1 << 22) + 256);
    assert!(data.iter().all(|line| line.0[7] > 0), "every page is written");
    let rate = memory::measure(&ctx, 2, &data, 2);
    assert!(rate.min() > 1e6, "{rate:?}");
}

#[test]
fn memory_of_others_is_read_by_lines() {
    let bytes: Vec<u8> = vec![7; 1000];
    let lines = memory::lines(&[&bytes, &bytes[..3]]);
    assert!((14..=15).contains(&lines[0].len()) && lines[1].is_empty(), "{lines:?}");
    assert!(lines[0].iter().flat_map(|line| line.0).all(|word| word == 0x0707_0707_0707_0707));
}

#[test]
fn a_job_waits_for_everyone() {
    // More threads than this machine may have cores.
    let job = job::measure(&Ctx::new(3).unwrap());
    assert!(job.everyone.median() > 0.0 && job.empty.min() >= 0.0);
    job::measure(&Ctx::new(1).unwrap());
}

#[test]
#[cfg(target_arch = "x86_64")]
fn caches_are_described_as_processors_do() {
    // Level 2, unified, shared by 2, 64-byte lines, 1 partition, 16 ways, 1024 sets: 1 MiB.
    let eax = 3 | 2 << 5 | 1 << 14;
    let found = caches::describe([eax, 63 | 15 << 22, 1023]).unwrap();
    assert_eq!(found, caches::Found { level: 2, size_bytes: 1 << 20, shared_by: 2 });
    assert!(caches::describe([2 | 1 << 5, 63, 63]).is_none(), "instructions");
    let here = caches::found();
    assert!(here.is_sorted_by_key(|cache| cache.level));
    assert!(here.iter().all(|cache| cache.size_bytes >= 4096 && cache.shared_by >= 1), "{here:?}");
}

#[test]
fn bandwidths_of_caches_that_threads_would_share_away_are_absent() {
    let ctx = Ctx::new(2).unwrap();
    let cache = |level, size_bytes, shared_by| caches::Found { level, size_bytes, shared_by };
    let measured = caches::measure(&ctx, &[cache(1, 32 << 10, 1), cache(2, 48 << 10, 2)], 1);
    assert_eq!(measured.iter().map(|c| c.all.is_some()).collect::<Vec<_>>(), [true, false]);
    assert!(measured.iter().all(|c| c.one.min() > 0.0));
}

fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512bf16") && std::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512vnni") && std::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
