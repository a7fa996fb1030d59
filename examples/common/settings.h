// What the example programs share: flags that a checkpoint keeps, so that a resumed run goes on as it was begun.
#pragma once
#include <flame/core/format.h>
#include <flame/flame.h>

#include <charconv>
#include <functional>
#include <map>
#include <string>
#include <vector>

// The fields of an options struct that decide a run's result, by the name of their flag.
class Settings {
 public:
  template <class T>
  Settings& add(const std::string& name, T& field, bool may_differ = false) {
    fields_.push_back({name, may_differ, [&field] { return fmt::format("{}", field); },
                       [&field, name](const std::string& text) { field = number_of<T>(name, text); }});
    return *this;
  }

  std::map<std::string, std::string> text() const {
    std::map<std::string, std::string> out;
    for (const Field& f : fields_) out[f.name] = f.text();
    return out;
  }

  // Takes the settings of a checkpoint. `given`: the flags that the user wrote; ValueError if one of them differs from
  // the run's, unless it may, in which case the user's stays.
  void adopt(const std::map<std::string, std::string>& saved, const std::map<std::string, bool>& given) const {
    for (const Field& f : fields_) {
      const auto it = saved.find(f.name);
      if (it == saved.end())
        flame::fail<flame::FormatError>(flame::Loc::current(), "the checkpoint has no setting {}: not of this program",
                                        f.name);
      const auto flag = given.find(f.name);
      const bool wrote = flag != given.end() && flag->second;
      if (wrote && it->second != f.text()) {
        if (!f.may_differ)
          flame::fail<flame::ValueError>(flame::Loc::current(), "--resume: the run was begun with --{} {}, got {}",
                                         f.name, it->second, f.text());
        fmt::print("note: the run was begun with --{} {}; another number may change last bits\n", f.name, it->second);
        continue;
      }
      f.read(it->second);
    }
  }

 private:
  struct Field {
    std::string name;
    bool may_differ;
    std::function<std::string()> text;
    std::function<void(const std::string&)> read;
  };
  std::vector<Field> fields_;

  template <class T>
  static T number_of(const std::string& name, const std::string& text) {
    if constexpr (std::is_same_v<T, std::string>) return text;
    else return parsed<T>(name, text);
  }
  template <class T>
  static T parsed(const std::string& name, const std::string& text) {
    T v{};
    const auto r = std::from_chars(text.data(), text.data() + text.size(), v);
    if (r.ec != std::errc() || r.ptr != text.data() + text.size())
      flame::fail<flame::FormatError>(flame::Loc::current(), "the checkpoint's setting {} is '{}', expected a number",
                                      name, text);
    return v;
  }
};

// "cpu", "cuda", or "auto" for a GPU where there is one.
inline flame::Device& pick_device(const std::string& wish) { return flame::device(wish); }

// An error's text without the place in the source, which only programmers want.
inline std::string plain(const std::exception& e) {
  const std::string text = e.what();
  return text.substr(0, text.rfind(" (at "));
}
