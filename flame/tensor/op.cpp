// Defaults of the op contract, and the registry behind the tests and the op reference.
#include "flame/tensor/op.h"

#include "flame/core/format.h"

namespace flame {

Ref<Plan> Op::prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const {
  if (d.host_accessible() || d.kind() == Device::Kind::trace) return prepare_cpu(in, out);
  return prepare_cuda(d, in, out);
}
Ref<Plan> Op::prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const {
  fail<NotImplemented>(Loc::current(), "{}: no kernel for {} on {}", name(), in.empty() ? out[0].dtype : in[0].dtype,
                       d.name());
}
Ref<Plan> Op::prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const {
  fail<NotImplemented>(Loc::current(), "{}: no kernel for {} on cpu", name(), in.empty() ? out[0].dtype : in[0].dtype);
}
void Op::vjp(Vjp& v) const { fail<NotDifferentiable>(v.call_site(), "{}: has no gradient", name()); }

Registry& Registry::global() {
  static Registry* all = new Registry;
  return *all;
}
void Registry::add(OpEntry e) {
  if (find(e.name)) fail<ValueError>(Loc::current(), "registry: '{}' is registered twice", e.name);
  entries_.push_back(std::move(e));
}
RegisterOp::RegisterOp(OpEntry e, Loc where) {
  const std::string_view file = where.file_name();
  const size_t root = file.rfind("flame/ops/");
  if (e.source.empty()) e.source = file.substr(root == std::string_view::npos ? 0 : root);
  if (const size_t beside = e.source.find("_samples.cpp"); beside != std::string::npos)  // a file of samples alone
    e.source.replace(beside, std::string::npos, ".cpp");
  Registry::global().add(std::move(e));
}
const OpEntry* Registry::find(std::string_view name) const {
  for (const OpEntry& e : entries_)
    if (e.name == name) return &e;
  return nullptr;
}

}  // namespace flame
