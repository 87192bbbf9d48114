import Attention
import AttentionBLAS
import AttentionTensors
import CMachinePeaks
import Foundation

/// The limits of this machine. Each call of ``measure(threads:)`` measures them anew.
struct Machine: Encodable {
  let cpu: String
  /// The FMA peak of one thread.
  let fmaPeakGflops: Double
  /// The FMA peak of all threads at once, even if there are fewer CPUs than threads.
  let fmaPeakAllGflops: Double
  /// The peak of a matrix unit. It is always nil, because the runner does not measure one.
  let amxPeakGflops: Double?
  let sgemmGflops: Double
  let sgemmShareOfPeak: Double
  let readRamGBps: Double
  let readRamThreads: Int
  /// The size of the last-level cache: the larger of two reported sizes, that of CPU 0's share and that of the whole
  /// cache.
  let lastLevelCacheByteCount: Int
  let openblasCore: String
  let openblasVersion: String
  let isa: String
  let threads: Int

  private enum CodingKeys: String, CodingKey {
    case cpu, fmaPeakGflops = "fma_peak_gflops", fmaPeakAllGflops = "fma_peak_all_gflops", amxPeakGflops =
      "amx_peak_gflops", sgemmGflops = "sgemm_2048_gflops",
      sgemmShareOfPeak = "sgemm_share_of_peak", readRamGBps = "read_ram_gbps", readRamThreads = "read_ram_threads",
      lastLevelCacheByteCount = "last_level_cache_bytes",
      openblasCore = "openblas_core", openblasVersion = "openblas_version", isa, threads
  }

  /// The number of rounds. In each round, the peaks and sgemm are measured in turn. The best result of each counts,
  /// because other load on a shared machine can only slow it.
  private static let rounds = 15

  static func measure(threads: Int?) throws -> Machine {
    let context = AttentionContext(threadCount: threads)
    let extent = 2048
    let a = try Tensor<Float>(uniform: -1..<1, shape: [extent, extent], seed: 1)
    let b = try Tensor<Float>(uniform: -1..<1, shape: [extent, extent], seed: 2)
    var c = try Tensor<Float>(repeating: .nan, shape: [extent, extent])
    var peak = 0.0
    var peakOfAll = 0.0
    var sgemm = 0.0
    try c.withMutableView { view in
      let base = view.base
      for _ in 0..<rounds {
        var operations = 0.0
        let seconds = secondsTaken { operations = peaks_run_fma(8) }
        peak = max(peak, operations / seconds * 1e-9)
        let all = secondsTaken {
          // Pieces of equal length, one for each thread.
          context.execute(taskCount: context.threadCount, threadCount: context.threadCount) { _, _ in
            _ = peaks_run_fma(8)
          }
        }
        peakOfAll = max(peakOfAll, operations * Double(context.threadCount) / all * 1e-9)
        let product = secondsTaken {
          OpenBLAS.withOneThread {
            multiply(
              StridedMatrix(base: a.base, rowCount: extent, columnCount: extent, rowStride: extent, columnStride: 1),
              StridedMatrix(base: b.base, rowCount: extent, columnCount: extent, rowStride: extent, columnStride: 1),
              .replacing, into: base, stride: extent)
          }
        }
        sgemm = max(sgemm, 2 * Double(extent * extent * extent) / product * 1e-9)
      }
    }
    return Machine(
      cpu: cpuName(), fmaPeakGflops: peak, fmaPeakAllGflops: peakOfAll, amxPeakGflops: nil, sgemmGflops: sgemm,
      sgemmShareOfPeak: sgemm / peak,
      readRamGBps: try readBandwidth(context), readRamThreads: context.threadCount,
      lastLevelCacheByteCount: lastLevelCache(), openblasCore: OpenBLAS.core,
      openblasVersion: OpenBLAS.version, isa: try context.resolvedInstructionSet().rawValue,
      threads: context.threadCount)
  }

  /// The rate at which all threads read half a GiB, which fits into no cache.
  private static func readBandwidth(_ context: AttentionContext) throws -> Double {
    let memory = try Tensor<Float>(repeating: 1, shape: [1 << 27])
    return withExtendedLifetime(memory) {
      readRate([UnsafeRawBufferPointer(start: memory.base, count: 4 * memory.count)], context)
    }
  }

  /// The rate in GB/s at which all threads of `context` read `buffers`, one buffer after another. The best of `times`
  /// runs counts.
  static func readRate(
    _ buffers: [UnsafeRawBufferPointer], _ context: AttentionContext, times: Int = 5
  ) -> Double {
    // 63 pieces are enough for the threads to share. The length of a piece is not a power of two, because addresses
    // whose distance is a power of two share sets of the cache.
    let taskCount = 63
    let shared = UncheckedSendable(buffers)
    let best = (0..<times).map { _ in
      secondsTaken {
        for index in buffers.indices {
          context.execute(taskCount: taskCount, threadCount: context.threadCount) { task, _ in
            let floats = shared.value[index].assumingMemoryBound(to: Float.self)
            let length = floats.count / taskCount
            // The comparison uses the sum, so that the compiler keeps the reads. If the sum is NaN, the comparison is
            // false.
            if peaks_read(floats.baseAddress! + task * length, length) == .infinity { fatalError("infinite operands") }
          }
        }
      }
    }.min()!
    return Double(buffers.reduce(0) { $0 + $1.count }) / best * 1e-9
  }

  private static func lastLevelCache() -> Int {
    let text = (try? String(contentsOfFile: "/sys/devices/system/cpu/cpu0/cache/index3/size", encoding: .utf8)) ?? ""
    let share = (Int(text.prefix(while: \.isNumber)) ?? 0) << 10
    #if canImport(Glibc)
      let whole = sysconf(Int32(_SC_LEVEL3_CACHE_SIZE))
    #else
      let whole = 0
    #endif
    // If neither size is reported, 64 MiB are assumed, which is more than most caches have.
    return max(share, whole) > 0 ? max(share, whole) : 64 << 20
  }

  private static func cpuName() -> String {
    let text = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
    let line = text.split(separator: "\n").first { $0.hasPrefix("model name") }
    return line.map { $0.split(separator: ":").last!.trimmingCharacters(in: .whitespaces) } ?? "unknown"
  }
}
