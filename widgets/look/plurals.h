// English plurals. Texts in the code mark the ending that depends on a count: "%n window(s)", "%n entry(ies)"; this translator
// writes out the form for the count where no catalogue of another language does.
#pragma once

#include <QTranslator>

namespace espalier
{

class EnglishPlurals final : public QTranslator
{
    Q_OBJECT
public:
    using QTranslator::QTranslator;
    bool isEmpty() const override { return false; }
    // Null for texts without a count: they stay as they are.
    QString translate(const char* context, const char* sourceText, const char* disambiguation, int n) const override;
};

}  // namespace espalier
