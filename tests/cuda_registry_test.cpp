// Every op of the registry on the GPU against float64 on the CPU: values, gradients, second gradients, other layouts, and
// fused against unfused bit for bit; integers and booleans against the same dtype on the CPU. Prints a line an op and dtype.
// FLAME_SHARD=i/n takes every n-th op, FLAME_DTYPE one dtype. Without a GPU, the same loop asks a device that only compiles for the same kernels.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "flame/device/device_scope.h"
#include "flame/device/kernel.h"
#include "flame/fuse/fusion.h"
#include "flame/tensor/op.h"
#include "tests/emulator/emulated_device.h"
#include "tests/support/chosen.h"
#include "tests/support/cuda_support.h"
#include "tests/support/forms.h"
#include "tests/support/tolerances.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;

// Beside the CPU's tolerance: transcendental functions are within 2 ulp here and within 1 there.
double allowed_on_gpu(double on_cpu, DType t) { return size_of(t) == 2 ? std::max(1.5 * on_cpu, 3.0) : 2 * on_cpu; }

struct Result {
  Tensors outputs, gradients, second;
};

class GpuLoop {
 public:
  // dry: the same work, but nothing on the device has a value, so what differs is no finding.
  explicit GpuLoop(Device& d, bool dry = false) : gpu_(d), dry_(dry) {}
  std::set<std::string> failed, missing, passed;

  void run(const OpEntry& e) {
    entry_ = &e;
    const char* only = std::getenv("FLAME_DTYPE");
    for (DType t : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i8, DType::u8,
                    DType::boolean}) {
      if (only && flame::name_of(t) != only) continue;
      seen_ = {};
      finding_.clear();
      std::string state = "passed";
      try {
        if (is_float(t)) each_case(t);
        else each_integer_case(t);
        if (!finding_.empty()) state = "failed";
      } catch (const NotImplemented& n) {
        state = "missing";
        finding_ = n.what();
      } catch (const KernelError& x) {
        state = "failed";
        finding_ = where_ + ": " + x.what();
      } catch (const std::exception& x) {
        finding_ = where_ + ": " + x.what();
        // A number read from a device that computes nothing may be refused by what takes it.
        if (!dry_) state = "failed";
      }
      (state == "passed" ? passed : state == "missing" ? missing : failed).insert(e.name);
      for (char& c : finding_)
        if (c == '\n') c = ' ';
      std::printf("cuda-op %s %s %s %.3g %.3g %s\n", e.name.c_str(), std::string(flame::name_of(t)).c_str(),
                  state.c_str(), seen_.value, seen_.gradient, finding_.substr(0, 400).c_str());
      std::fflush(stdout);
    }
  }

 private:
  Device& gpu_;
  bool dry_;
  const OpEntry* entry_ = nullptr;
  Seen seen_;
  std::string finding_, where_;

  void note(const std::string& what) {
    if (finding_.empty() && !dry_) finding_ = where_ + ": " + what;
  }
  static bool wanted(const SampleCase& c, size_t i) {
    return c.inputs[i].defined() && is_float(c.inputs[i].dtype()) && (c.wrt < 0 || i < static_cast<size_t>(c.wrt));
  }
  static Tensor seed_like(const Tensor& y, size_t salt) {
    std::vector<double> v(static_cast<size_t>(y.numel()));
    for (size_t i = 0; i < v.size(); ++i) v[i] = (static_cast<double>((i * 29 + 5 + salt) % 17) - 8) / 8;
    return Tensor::from(v, y.shape(), y.device()).to(y.dtype());
  }
  Result evaluate(const SampleCase& c, const Tensors& inputs, bool twice) const {
    Tensors in = inputs, leaves;
    for (size_t i = 0; i < in.size(); ++i)
      if (wanted(c, i)) leaves.push_back(in[i].requires_grad_());
    Result r{c.fn(in), {}, {}};
    Tensors outputs, seeds;
    for (const Tensor& y : r.outputs)
      if (y.requires_grad()) {
        outputs.push_back(y);
        seeds.push_back(seed_like(y, 0));
      }
    if (outputs.empty() || !entry_->differentiable) return r;
    r.gradients = grad(outputs, leaves,
                       {.grad_outputs = seeds, .retain_graph = true, .create_graph = twice, .allow_unused = true});
    if (!twice) return r;
    Tensors firsts, more;
    for (const Tensor& g : r.gradients)
      if (g.defined() && g.requires_grad()) {
        firsts.push_back(g);
        more.push_back(seed_like(g, 3));
      }
    if (!firsts.empty()) r.second = grad(firsts, leaves, {.grad_outputs = more, .allow_unused = true});
    return r;
  }
  void compare(const Tensors& got, const Tensors& want, const char* what, double& worst, double allowed) {
    if (got.size() != want.size()) return note(std::string(what) + ": another number of results");
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i].defined() != want[i].defined()) {
        note(std::string(what) + ": one of two is undefined");
        continue;
      }
      if (!got[i].defined()) continue;
      const Deviation e = error_of(got[i], want[i]);
      worst = std::max(worst, e.units);
      if (!(e.units <= allowed))
        note(std::string(what) + " " + std::to_string(i) + ", element " + std::to_string(e.at) + ": " +
             (e.text.empty() ? std::to_string(e.units) + " roundings, allowed " + std::to_string(allowed) : e.text));
    }
  }

  void each_case(DType t) {
    // Made twice, since what a sample holds beside its inputs lies on the device where it was made.
    std::vector<SampleCase> here, there;
    {
      DeviceScope scope(cpu());
      here = entry_->samples(t);
    }
    {
      DeviceScope scope(gpu_);
      there = entry_->samples(t);
    }
    for (size_t i = 0; i < here.size(); ++i) {
      for (const Form f : {Form::dense, Form::transposed, Form::gaps}) {
        if (f != Form::dense && t != DType::f32) continue;
        where_ = std::string(flame::name_of(t)) + ", " + here[i].label + ", " + name_of(f);
        check_case(here[i], there[i], t, f);
      }
    }
  }
  // Four times the samples' numbers as whole ones. What the CPU refuses, the GPU refuses too.
  void each_integer_case(DType t) {
    std::vector<SampleCase> here, there;
    {
      DeviceScope scope(cpu());
      here = entry_->samples(DType::f32);
    }
    {
      DeviceScope scope(gpu_);
      there = entry_->samples(DType::f32);
    }
    for (size_t i = 0; i < here.size(); ++i) {
      where_ = std::string(flame::name_of(t)) + ", " + here[i].label;
      Tensors on_cpu, on_gpu, want, got;
      for (const Tensor& x : here[i].inputs) {
        const Tensor y = x.defined() && is_float(x.dtype()) ? (x.detach() * 4).to(t) : x;
        on_cpu.push_back(y);
        on_gpu.push_back(y.defined() ? y.to(gpu_) : y);
      }
      bool refused = false;
      try {
        DeviceScope scope(cpu());
        want = here[i].fn(on_cpu);
        for (const Tensor& y : want)
          if (y.defined()) y.data();
      } catch (const Error&) { refused = true; }
      DeviceScope scope(gpu_);
      if (refused) {
        try {
          for (const Tensor& y : there[i].fn(on_gpu))
            if (y.defined()) y.data();
          note("the CPU refuses this, the GPU does not");
        } catch (const NotImplemented&) { throw; } catch (const Error&) {
        }
      } else {
        got = there[i].fn(on_gpu);
        compare(got, want, "value", seen_.value,
                allowed_on_gpu(allowed_error(entry_->name, DType::f32).value, DType::f32));
      }
    }
  }
  void check_case(const SampleCase& here, const SampleCase& there, DType t, Form f) {
    const bool twice = t == DType::f64 && f == Form::dense;
    const Allowed a = allowed_error(entry_->name, t);
    Tensors reference, inputs;
    Result want;
    {
      DeviceScope scope(cpu());
      for (const Tensor& x : here.inputs) reference.push_back(doubled(x));
      want = evaluate(here, reference, twice);
    }
    DeviceScope scope(gpu_);
    for (const Tensor& x : there.inputs) inputs.push_back(x.defined() && f != Form::dense ? in_form(x, f) : x);
    const Result got = evaluate(there, inputs, twice);
    compare(got.outputs, want.outputs, "value", seen_.value, allowed_on_gpu(a.value, t));
    compare(got.gradients, want.gradients, "gradient", seen_.gradient, allowed_on_gpu(a.gradient, t));
    if (twice) {
      double second = 0;
      compare(got.second, want.second, "second gradient", second, allowed_on_gpu(8 * a.gradient, t));
    }
    if (f != Form::dense) return;
    set_fusion(false);
    Result alone;
    try {
      alone = evaluate(there, inputs, twice);
    } catch (...) {
      set_fusion(true);
      throw;
    }
    set_fusion(true);
    for (size_t i = 0; i < got.outputs.size(); ++i)
      if (const std::string d = difference(got.outputs[i], alone.outputs[i]); !d.empty())
        note("fused is not unfused: " + d);
    for (size_t i = 0; i < got.gradients.size() && i < alone.gradients.size(); ++i)
      if (const std::string d = difference(got.gradients[i], alone.gradients[i]); !d.empty())
        note("gradient, fused is not unfused: " + d);
  }
};

TEST(CudaRegistry, EveryOpAgainstFloat64) {
  FLAME_NEEDS_GPU(d);
  const char* shard = std::getenv("FLAME_SHARD");
  size_t own = 0, of = 1, at = 0;
  if (shard) std::sscanf(shard, "%zu/%zu", &own, &of);
  GpuLoop loop(d);
  for (const OpEntry& e : Registry::global().entries())
    if (chosen(e.name) && at++ % of == own) loop.run(e);
  const CompilerCounts c = compiler_counts();
  std::printf(
      "%zu passed in some dtype, %zu missing, %zu failed; %llu kernels compiled in %.1f s, %llu read from disk\n",
      loop.passed.size(), loop.missing.size(), loop.failed.size(), static_cast<unsigned long long>(c.compiled),
      c.seconds, static_cast<unsigned long long>(c.from_disk));
  for (const std::string& op : loop.failed) ADD_FAILURE() << op;
  for (const std::string& op : loop.missing) ADD_FAILURE() << op << " has no CUDA body for some dtype";
}

// Without a GPU: every kernel that the loop above asks for compiles. FLAME_CUDA_ARCHS: for which architectures; 0 compiles
// nothing and only lists what is asked for, in $FLAME_KERNEL_LOG (tools/kernel-list).
TEST(CudaCompile, KernelsOfTheRegistry) {
  if (!plugin_function<void(int)>("flame_cuda_dry")) GTEST_SKIP() << "the CUDA plugin is not built here";
  const char* archs = std::getenv("FLAME_CUDA_ARCHS");
  if (!archs && all_ops()) GTEST_SKIP() << "tools/kernel-list runs it with FLAME_CUDA_ARCHS";
  size_t own = 0, of = 1;
  if (const char* shard = std::getenv("FLAME_SHARD")) std::sscanf(shard, "%zu/%zu", &own, &of);
  std::istringstream list(archs ? archs : "90");
  for (std::string arch; std::getline(list, arch, ',');) {
    GpuLoop loop(device("cuda:dry" + arch), true);
    size_t at = 0;
    for (const OpEntry& e : Registry::global().entries())
      if (chosen(e.name) && at++ % of == own) loop.run(e);
    for (const std::string& op : loop.failed) ADD_FAILURE() << op << " for sm_" << arch;
  }
}

// Without a GPU: the loop over kernels that are run on the CPU (tests/emulator). FLAME_OPS names other ops than these few, which
// take a compile of half a second a kernel.
TEST(Emulated, OpsAgainstFloat64) {
  const std::string few = ",layer_norm,";
  GpuLoop loop(emulated::emulated_device());
  for (const OpEntry& e : Registry::global().entries())
    if (all_ops() ? few.find("," + e.name + ",") != std::string::npos : chosen(e.name)) loop.run(e);
  const emulated::CompileCounts c = emulated::compile_counts();
  std::printf("%d kernels compiled in %.1f s, %d read from disk, %llu launches\n", c.compiled, c.seconds, c.from_disk,
              static_cast<unsigned long long>(emulated::emulated_device().launches()));
  for (const std::string& op : loop.failed) ADD_FAILURE() << op;
  for (const std::string& op : loop.missing) ADD_FAILURE() << op << " is not there for some dtype";
}

}  // namespace
}  // namespace flame
