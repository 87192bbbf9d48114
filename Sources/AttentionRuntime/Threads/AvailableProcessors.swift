internal import CLibrary

/// The number of CPUs that the scheduler may give this process. The machine may have more.
///
/// Linux lists them in `/proc/self/status` as `Cpus_allowed_list: 0-3,8`.
package func processorCountByAffinity(file: (String) -> String? = contents(ofFile:)) -> Int {
  for line in (file("/proc/self/status") ?? "").split(separator: "\n") where line.hasPrefix("Cpus_allowed_list:") {
    let ranges = line.dropFirst("Cpus_allowed_list:".count).split { $0 == "," || $0.isWhitespace }
    let counts = ranges.map { range -> Int in
      let ends = range.split(separator: "-").compactMap { Int($0) }
      return ends.isEmpty ? 0 : ends[ends.count - 1] - ends[0] + 1
    }
    let total = counts.reduce(0, +)
    if total > 0 { return total }
  }
  return max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
}

/// The contents of a small file, such as those in which the kernel reports its state.
package func contents(ofFile path: String) -> String? {
  guard let file = fopen(path, "r") else { return nil }
  defer { fclose(file) }
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 4096)
  while true {
    let count = fread(&buffer, 1, buffer.count, file)
    if count == 0 { return String(decoding: bytes, as: UTF8.self) }
    bytes += buffer.prefix(count)
  }
}

/// The CPU time that a container's control group grants, in CPUs.
package enum CPUQuota {
  /// The quota of this process; nil where there is none.
  package static let current: Double? = read(file: contents(ofFile:))

  /// The least quota among those of the process's control group and of the group's ancestors.
  ///
  /// With version 2 of control groups, `cpu.max` holds "QUOTA PERIOD" or "max PERIOD". With version 1, the folder of
  /// the `cpu` controller holds `cpu.cfs_quota_us` (−1: no quota) and `cpu.cfs_period_us`. Inside a container the path
  /// of the group often does not exist, and the group's files are at the root instead. So the files of every ancestor
  /// are tried.
  package static func read(file: (String) -> String?) -> Double? {
    var quotas: [Double] = []
    for line in (file("/proc/self/cgroup") ?? "").split(separator: "\n") {
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      let controllers = fields[1].split(separator: ",")
      for path in ancestors(of: fields[2]) {
        if fields[1].isEmpty {
          let words = numbers(file("/sys/fs/cgroup\(path)/cpu.max"))
          if words.count == 2 { quotas.append(words[0] / words[1]) }
        } else if controllers.contains("cpu") {
          let folder = "/sys/fs/cgroup/\(fields[1])\(path)"
          if let quota = numbers(file("\(folder)/cpu.cfs_quota_us")).first, quota > 0,
            let period = numbers(file("\(folder)/cpu.cfs_period_us")).first
          {
            quotas.append(quota / period)
          }
        }
      }
    }
    return quotas.filter { $0 > 0 && $0.isFinite }.min()
  }

  /// "/a/b" → "/a/b", "/a", "".
  private static func ancestors(of path: Substring) -> [String] {
    let parts = path.split(separator: "/")
    return (0...parts.count).reversed().map { count in parts.prefix(count).map { "/" + $0 }.joined() }
  }

  private static func numbers(_ text: String?) -> [Double] {
    (text ?? "").split(whereSeparator: \.isWhitespace).compactMap { Double($0) }
  }
}
