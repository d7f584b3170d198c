#include "rpc/search_record.h"

#include "rpc/fields.h"

namespace espalier
{

template <typename Fields, Is<MeasuredRecord> Message>
void fields(Fields& f, Message& m)
{
    f.required("name", m.name);
    f.required("nll", m.nll);
    f.always("change", m.change);
    f.always("error", m.error);
    if constexpr (Fields::kReads) {
        f.maybe("rise", m.rise);
        f.maybe("passes", m.passes);
    } else {
        f.nullable("rise", m.rise);
        f.nullable("passes", m.passes);
    }
    f.always("windows", m.windows, 0);
    f.always("accepted", m.accepted);
}

template <typename Fields, Is<SearchRecord> Message>
void fields(Fields& f, Message& m)
{
    f.always("title", m.title);
    f.always("name", m.name);
    f.always("recipe", m.recipe);
    f.always("finished", m.finished);
    f.always("ended", m.ended);
    f.always("seconds", m.seconds);
}

namespace
{

// Those that can be read.
template <typename T, typename Read>
void readList(RequestParams& record, const char* key, std::vector<T>& values, const Read& read)
{
    const Json list = record.value(key, false);
    if (!list.is_array()) return;
    for (const Json& item : list) {
        T value;
        FieldReader reader(item);
        read(reader, value);
        if (reader.problem().empty()) values.push_back(std::move(value));
    }
}

}  // namespace

Json toJson(const SearchRecord& record)
{
    FieldWriter writer;
    fields(writer, record);
    Json measured = Json::array();
    for (const MeasuredRecord& plan : record.measured) {
        FieldWriter one;
        fields(one, plan);
        measured.push_back(std::move(one).take());
    }
    writer.set("measured", std::move(measured));
    writer.set("alone", encode(record.alone));
    return std::move(writer).take();
}

std::optional<SearchRecord> searchRecordFromJson(const Json& json)
{
    if (!json.is_object()) return std::nullopt;
    SearchRecord record;
    FieldReader reader(json);
    fields(reader, record);
    readList(reader, "measured", record.measured, [](FieldReader& f, MeasuredRecord& plan) { fields(f, plan); });
    readList(reader, "alone", record.alone, [](FieldReader& f, LayerAlone& layer) {
        f.required("layer", layer.layer, 0);
        f.required("alone", layer.alone);
    });
    return record;
}

}  // namespace espalier
