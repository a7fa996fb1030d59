// DLPack: the structures that leave and enter, who lives how long, and what is refused. tests/dlpack has the other side.
#include <gtest/gtest.h>

#include "flame/io/dlpack.h"
#include "flame/ops/pointwise.h"
#include "support/compare.h"
#include "support/error.h"

using namespace flame;
using namespace flame::dlpack;
using namespace flame::io;
using flame::test::message_of;

namespace {

// A producer of [2, 3] float32 that counts calls of its deleter.
struct Producer {
  float data[8] = {-1, 0, 1, 2, 3, 4, 5, -1};
  int64_t shape[9] = {2, 3, 1, 1, 1, 1, 1, 1, 1}, strides[2] = {3, 1};
  int deleted = 0;
  DLManagedTensorVersioned managed{version,
                                   this,
                                   [](auto* self) { ++static_cast<Producer*>(self->manager_ctx)->deleted; },
                                   0,
                                   {data, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, strides, 4}};
};

}  // namespace

TEST(Dlpack, ExportDescribesTheTensor) {
  const Tensor t = Tensor::from<int32_t>({0, 1, 2, 3, 4, 5}, {2, 3}).t();
  DLManagedTensorVersioned* m = to_dlpack(t);
  EXPECT_EQ(m->version.major, 1u);
  EXPECT_EQ(m->flags, read_only);
  EXPECT_EQ(m->dl_tensor.data, t.data());
  EXPECT_EQ(m->dl_tensor.ndim, 2);
  EXPECT_EQ(m->dl_tensor.shape[0], 3);
  EXPECT_EQ(m->dl_tensor.strides[1], 3);
  EXPECT_EQ(m->dl_tensor.dtype.code, kDLInt);
  EXPECT_EQ(m->dl_tensor.dtype.bits, 32);
  m->deleter(m);
  DLManagedTensor* old = to_dlpack_legacy(t);
  EXPECT_NE(old->dl_tensor.data, t.data()) << "an old consumer knows no read-only flag";
  EXPECT_EQ(old->dl_tensor.strides[0], 2);
  EXPECT_EQ(static_cast<int32_t*>(old->dl_tensor.data)[1], 3);
  old->deleter(old);
}

TEST(Dlpack, TheConsumerKeepsTheBytesAlive) {
  int released = 0;
  std::vector<float> numbers{1, 2, 3};
  DLManagedTensorVersioned* m = nullptr;
  {
    const Tensor t = Tensor::from_blob(numbers.data(), {3}, [&](float*) { ++released; });
    m = to_dlpack(t.narrow(0, 1, 2));
  }
  EXPECT_EQ(released, 0);
  EXPECT_EQ(*static_cast<float*>(m->dl_tensor.data), 2.f);
  m->deleter(m);
  EXPECT_EQ(released, 1);
}

TEST(Dlpack, AStatesTensorIsCopied) {
  const State s(Tensor::from<float>({1, 2}, {2}));
  DLManagedTensorVersioned* m = to_dlpack(s.tensor());
  s.assign(Tensor::from<float>({3, 4}, {2}));
  EXPECT_EQ(m->flags, is_copied);
  EXPECT_EQ(*static_cast<float*>(m->dl_tensor.data), 1.f);
  m->deleter(m);
}

TEST(Dlpack, ImportReadsInPlaceAndReleasesOnce) {
  Producer p;
  {
    Tensor kept;
    {
      const Tensor t = from_dlpack(&p.managed);
      EXPECT_EQ(t.data(), p.data + 1);
      EXPECT_EQ(t.to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 4, 5}));
      kept = t.select(0, 1);
    }
    EXPECT_EQ(p.deleted, 0);
    EXPECT_EQ(kept.to_vector<float>(), (std::vector<float>{3, 4, 5}));
    DLManagedTensorVersioned* again = to_dlpack(kept);  // and out again
    kept = Tensor();
    EXPECT_EQ(p.deleted, 0);
    again->deleter(again);
  }
  EXPECT_EQ(p.deleted, 1);
}

TEST(Dlpack, Layouts) {
  Producer p;
  p.managed.dl_tensor.strides = nullptr;
  EXPECT_EQ(from_dlpack(&p.managed).strides(), (Strides{3, 1}));
  p.managed.dl_tensor.strides = p.strides;
  p.strides[0] = -3, p.strides[1] = -1;
  p.managed.dl_tensor.byte_offset = 24;
  EXPECT_EQ(from_dlpack(&p.managed).to_vector<float>(), (std::vector<float>{5, 4, 3, 2, 1, 0}));
  EXPECT_EQ((from_dlpack(&p.managed) + 1).to_vector<float>(), (std::vector<float>{6, 5, 4, 3, 2, 1}));
  p.strides[0] = 0;
  EXPECT_EQ(from_dlpack(&p.managed).to_vector<float>(), (std::vector<float>{5, 4, 3, 5, 4, 3}));
  p.shape[0] = 0;
  p.managed.dl_tensor.data = nullptr;
  p.managed.dl_tensor.byte_offset = 0;
  EXPECT_EQ(from_dlpack(&p.managed).shape(), (Shape{0, 3}));
  EXPECT_EQ(p.deleted, 5);
  p.managed.deleter = nullptr;  // allowed
  EXPECT_EQ(from_dlpack(&p.managed).numel(), 0);
}

TEST(Dlpack, MistakesLeaveTheProducerAlone) {
  const auto refused = []<class E>(E*, void (*damage)(Producer&), const char* expected) {
    Producer p;
    damage(p);
    const std::string m = message_of<E>([&] { from_dlpack(&p.managed); });
    EXPECT_NE(m.find(expected), m.npos) << m;
    EXPECT_EQ(p.deleted, 0);
  };
  const auto value = [&](void (*damage)(Producer&), const char* m) {
    refused(static_cast<ValueError*>(nullptr), damage, m);
  };
  value([](Producer& p) { p.managed.version.major = 2; }, "version 2.0, expected 1.x");
  value([](Producer& p) { p.managed.dl_tensor.ndim = 9; }, "9 axes, expected 0 to 8");
  value([](Producer& p) { p.managed.dl_tensor.ndim = -1; }, "-1 axes");
  value([](Producer& p) { p.managed.dl_tensor.shape = nullptr; }, "no shape for 2 axes");
  value([](Producer& p) { p.shape[0] = -1; }, "is negative or too large");
  value([](Producer& p) { p.shape[0] = p.shape[1] = int64_t{1} << 40; }, "is negative or too large");
  value([](Producer& p) { p.strides[0] = INT64_MAX / 2, p.shape[0] = 4; }, "is too large");
  value([](Producer& p) { p.strides[0] = INT64_MIN; }, "is too large");
  value([](Producer& p) { p.managed.dl_tensor.data = nullptr; }, "got null");
  value([](Producer& p) { p.managed.dl_tensor.byte_offset = 2; }, "not aligned to the 4 bytes of float32");
  refused(
      static_cast<DeviceError*>(nullptr), [](Producer& p) { p.managed.dl_tensor.device.device_type = kDLCUDA; },
      "got device type 2");
  const auto dtype = [&](void (*damage)(Producer&), const char* m) {
    refused(static_cast<DTypeError*>(nullptr), damage, m);
  };
  dtype([](Producer& p) { p.managed.dl_tensor.dtype.lanes = 4; }, "float of 32 bits in 4 lanes");
  dtype([](Producer& p) { p.managed.dl_tensor.dtype = {kDLUInt, 64, 1}; }, "uint of 64 bits");
  dtype([](Producer& p) { p.managed.dl_tensor.dtype = {17, 8, 1}; }, "an unknown type of 8 bits");
  EXPECT_THROW(from_dlpack(static_cast<DLManagedTensor*>(nullptr)), ValueError);
  EXPECT_THROW(to_dlpack(Tensor()), ValueError);
}
