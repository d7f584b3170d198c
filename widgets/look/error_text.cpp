#include "look/error_text.h"

#include "look/format.h"

#include <QCoreApplication>

namespace espalier
{

namespace
{

std::string said(const std::string& text, const std::string& pattern, const Parameters& parameters)
{
    const std::string& source = pattern.empty() ? text : pattern;
    const std::string translated = QCoreApplication::translate("errors", source.c_str()).toStdString();
    if (translated == source) return text;
    // A translation whose places are others than the pattern's says nothing that could be relied on.
    return pattern.empty() ? translated : filledIn(translated, parameters).value_or(text);
}

}  // namespace

QString causeText(const Error& error) { return QString::fromStdString(said(error.message, error.messagePattern, error.parameters)); }

QString keptText(const Error& error) { return format::withoutOptions(said(error.kept, {}, {})); }

QString adviceText(const Error& error) { return format::withoutOptions(said(error.action, error.actionPattern, error.parameters)); }

}  // namespace espalier
