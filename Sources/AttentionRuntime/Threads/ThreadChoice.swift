internal import CLibrary

/// How many threads this process uses by default, and why.
package struct ThreadChoice {
  package let count: Int
  /// Where the number comes from, as a text for people.
  package let source: String

  package init(environment: (String) -> String? = environmentVariable) {
    if let text = environment("ATTENTION_NUM_THREADS"), let count = Int(text), count >= 1 {
      self.count = count
      source = "ATTENTION_NUM_THREADS"
      return
    }
    let affinity = processorCountByAffinity()
    if let quota = CPUQuota.current, Int(quota.rounded(.up)) < affinity {
      count = max(1, Int(quota.rounded(.up)))
      source = "the control group's quota of \(quota) CPUs"
    } else {
      count = affinity
      source = "the CPUs that this process may run on"
    }
  }
}

package func environmentVariable(_ name: String) -> String? {
  getenv(name).map { String(cString: $0) }
}
