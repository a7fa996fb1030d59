// Fields from tensorflow/core/util/event.proto and framework/summary.proto; framing from TensorFlow's record_writer.
#include "flame/io/event_log.h"

#include <chrono>
#include <cstring>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "flame/core/format.h"
#include "flame/io/crc32c.h"

namespace flame::io {
namespace {

enum EventField : protozero::pbf_tag_type { wall_time = 1, step_field = 2, file_version = 3, summary = 5 };
enum SummaryField : protozero::pbf_tag_type { summary_value = 1 };
enum ValueField : protozero::pbf_tag_type { tag_field = 1, simple_value = 2 };
constexpr size_t frame_head = 12, frame_tail = 4;  // length and its checksum; the content's checksum

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string framed(const std::string& content) {
  std::string out;
  const auto put = [&](auto v) { out.append(reinterpret_cast<const char*>(&v), sizeof v); };
  put(static_cast<uint64_t>(content.size()));
  put(masked_crc(crc32c(out)));
  out += content;
  put(masked_crc(crc32c(content)));
  return out;
}

std::string version_event() {
  std::string content;
  protozero::pbf_writer event(content);
  event.add_double(wall_time, now());
  event.add_string(file_version, "brain.Event:2");
  return framed(content);
}

template <class T>
T load(std::string_view bytes, size_t at) {
  T v;
  std::memcpy(&v, bytes.data() + at, sizeof v);
  return v;
}

// The content of the frame at `at`, or false if it is cut off or damaged.
bool next_frame(std::string_view bytes, size_t at, std::string_view& content) {
  if (bytes.size() - at < frame_head) return false;
  const auto length = load<uint64_t>(bytes, at);
  if (load<uint32_t>(bytes, at + 8) != masked_crc(crc32c(bytes.substr(at, 8)))) return false;
  if (length > bytes.size() - at - frame_head || bytes.size() - at - frame_head - length < frame_tail) return false;
  content = bytes.substr(at + frame_head, length);
  return load<uint32_t>(bytes, at + frame_head + length) == masked_crc(crc32c(content));
}

int64_t step_of(std::string_view content) {
  int64_t step = 0;  // absent means 0
  protozero::pbf_reader event(content.data(), content.size());
  while (event.next()) {
    if (event.tag() == step_field) step = event.get_int64();
    else event.skip();
  }
  return step;
}

// How many bytes at the front are whole events of steps up to `last`.
uint64_t bytes_to_keep(const std::string& path, int64_t last, Loc loc) {
  const MappedFile file(path, loc);
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  size_t at = 0;
  std::string_view content;
  try {
    while (next_frame(bytes, at, content) && (at == 0 || step_of(content) <= last))
      at += frame_head + content.size() + frame_tail;
  } catch (const protozero::exception& e) {
    fail<FormatError>(loc, "'{}': byte {}: no TensorBoard event ({})", path, at, e.what());
  }
  if (at == 0 && bytes.size() >= version_event().size())
    fail<FormatError>(loc, "'{}': byte 0: no TensorBoard event file", path);
  return at;
}

}  // namespace

EventLog::EventLog(const std::string& path, const EventLogOptions& options, Loc loc) {
  const bool resume = options.keep_until >= 0 && file_exists(path);
  const uint64_t keep = resume ? bytes_to_keep(path, options.keep_until, loc) : 0;
  file_ = std::make_unique<AppendFile>(path, keep, loc);
  if (keep == 0) file_->append(version_event(), loc);
  file_->flush(loc);
}

void EventLog::add_scalar(std::string_view tag, float value, int64_t step, Loc loc) {
  std::string content;
  {
    protozero::pbf_writer event(content);
    event.add_double(wall_time, now());
    event.add_int64(step_field, step);
    protozero::pbf_writer list(event, summary);
    protozero::pbf_writer item(list, summary_value);
    item.add_string(tag_field, tag.data(), tag.size());
    item.add_float(simple_value, value);
  }
  file_->append(framed(content), loc);
}

void EventLog::flush(Loc loc) { file_->flush(loc); }

}  // namespace flame::io
