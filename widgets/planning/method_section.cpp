#include "planning/method_section.h"

#include "look/controls.h"
#include "look/theme.h"

#include <QAbstractItemView>
#include <QComboBox>
#include <QDoubleSpinBox>
#include <QEvent>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QRegularExpression>
#include <QSignalBlocker>
#include <QSpinBox>
#include <QStandardItemModel>
#include <QStyleOptionComboBox>
#include <QStylePainter>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr int kMostLabelWidth = 130;
constexpr int kFieldWidth = 78;

class WheelGuard final : public QObject
{
public:
    using QObject::QObject;

protected:
    bool eventFilter(QObject* watched, QEvent* event) override
    {
        const auto* widget = qobject_cast<QWidget*>(watched);
        if (event->type() != QEvent::Wheel || !widget || widget->hasFocus()) return false;
        event->ignore();
        return true;
    }
};

QString labelOf(const ParamSpec& spec) { return QString::fromStdString(spec.key).replace(QLatin1Char('_'), QLatin1Char(' ')); }

int decimalsOf(const ParamSpec& spec)
{
    for (int decimals = 1; decimals < 4; ++decimals) {
        const double scaled = spec.defaultValue.is_number() ? spec.defaultValue.get<double>() * std::pow(10.0, decimals) : 0;
        if (std::abs(scaled - std::round(scaled)) < 1e-9) return spec.high <= 1 ? std::max(2, decimals) : decimals;
    }
    return 4;
}

}  // namespace

void guardWheel(QWidget* field)
{
    field->setFocusPolicy(Qt::StrongFocus);
    field->installEventFilter(new WheelGuard(field));
}

QString methodToolTip(const QString& title, const std::string& help, const std::string& source)
{
    QString text = QStringLiteral("<b>%1</b>").arg(title.toHtmlEscaped());
    if (!help.empty()) text += QStringLiteral("<br>") + QString::fromStdString(help).toHtmlEscaped();
    // Sections of the program's own description of methods say nothing to who uses it.
    static const QRegularExpression internal(QStringLiteral("(, )?(after )?methods\\.md[^,]*(, after )?"));
    QString from = QString::fromStdString(source);
    from.remove(internal);
    if (!from.isEmpty()) text += QStringLiteral("<br>") + from.toHtmlEscaped();
    return text;
}

// ---- Chooser

Chooser::Chooser(QWidget* parent) : QComboBox(parent)
{
    setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
    setMinimumContentsLength(6);
    guardWheel(this);
}

void Chooser::fitList()
{
    int widest = 0;
    for (int i = 0; i < count(); ++i)
        widest = std::max(widest, fontMetrics().horizontalAdvance(itemText(i)));
    view()->setMinimumWidth(widest + pixelsOf(32));
}

void Chooser::paintEvent(QPaintEvent*)
{
    QStylePainter painter(this);
    QStyleOptionComboBox option;
    initStyleOption(&option);
    painter.drawComplexControl(QStyle::CC_ComboBox, option);
    const QRect room = style()->subControlRect(QStyle::CC_ComboBox, &option, QStyle::SC_ComboBoxEditField, this);
    option.currentText = fontMetrics().elidedText(option.currentText, Qt::ElideRight, room.width() - pixelsOf(4));
    painter.drawControl(QStyle::CE_ComboBoxLabel, option);
}

// ---- FieldRows

FieldRows::FieldRows(QWidget* parent) : QWidget(parent)
{
    m_grid = new QGridLayout(this);
    m_grid->setContentsMargins(0, 0, 0, 0);
    m_grid->setHorizontalSpacing(pixelsOf(8));
    m_grid->setVerticalSpacing(pixelsOf(4));
    m_grid->setColumnStretch(2, 1);
}

void FieldRows::addRow(const QString& label, QWidget* field, const QString& unit, const QString& name, const QString& toolTip)
{
    auto* caption = new QLabel(this);
    caption->setText(caption->fontMetrics().elidedText(label, Qt::ElideRight, pixelsOf(kMostLabelWidth)));
    caption->setProperty("role", QStringLiteral("muted"));
    caption->setToolTip(toolTip);
    caption->setBuddy(field);
    field->setAccessibleName(name);
    if (field->toolTip().isEmpty()) field->setToolTip(toolTip);
    m_grid->addWidget(caption, m_rows, 0);
    if (qobject_cast<QComboBox*>(field) != nullptr) {
        field->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
        m_grid->addWidget(field, m_rows, 1, 1, 2);
    } else {
        m_grid->addWidget(field, m_rows, 1, Qt::AlignLeft);
        auto* after = new QLabel(unit, this);
        after->setProperty("role", QStringLiteral("muted"));
        m_grid->addWidget(after, m_rows, 2);
    }
    ++m_rows;
    setLabelWidth(m_labelWidth);
}

void FieldRows::setLabelWidth(int width)
{
    m_labelWidth = width;
    m_grid->setColumnMinimumWidth(0, width);
}

void FieldRows::setRowVisible(int row, bool visible)
{
    for (int column = 0; column < 3; ++column)
        if (QLayoutItem* item = m_grid->itemAtPosition(row, column); item && item->widget()) item->widget()->setVisible(visible);
}

void FieldRows::clear()
{
    while (QLayoutItem* item = m_grid->takeAt(0)) {
        if (QWidget* widget = item->widget()) {
            widget->hide();
            widget->deleteLater();  // the field may be the sender
        }
        delete item;
    }
    m_rows = 0;
}

// ---- MethodSection

MethodSection::MethodSection(const QString& title, bool switchable, QWidget* parent, const QString& chooser)
    : QWidget(parent), m_title(title), m_hasMethod(!chooser.isEmpty())
{
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(8));
    column->setSpacing(pixelsOf(4));
    auto* top = new QHBoxLayout;
    auto* name = new QLabel(title, this);
    name->setFont(fontFor(FontRole::Head));
    top->addWidget(name);
    top->addStretch(1);
    if (switchable) {
        m_switch = new Switch({}, this);
        m_switch->setAccessibleName(title);
        top->addWidget(m_switch);
        connect(m_switch, &QAbstractButton::clicked, this, [this] {
            refresh();
            emit changed();
        });
    }
    column->addLayout(top);
    m_head = new FieldRows(this);
    m_box = new Chooser(this);
    m_head->addRow(chooser, m_box, {}, tr("%1, %2").arg(title, chooser), {});
    m_fields = new FieldRows(this);
    m_extra = new FieldRows(this);
    m_warning = new QLabel(this);
    m_warning->setProperty("role", QStringLiteral("warning"));
    m_warning->setWordWrap(true);
    column->addWidget(m_head);
    column->addWidget(m_warning);
    column->addWidget(m_fields);
    column->addWidget(m_extra);
    connect(m_box, &QComboBox::activated, this, [this](int index) {
        const std::string id = m_box->itemData(index).toString().toStdString();
        if (id == m_method) return;
        m_method = id;
        m_params.clear();
        rebuild();
        emit changed();
    });
    refresh();
}

const MethodInfo* MethodSection::info() const
{
    const auto it = std::find_if(m_methods.begin(), m_methods.end(), [this](const MethodInfo& m) { return m.id == m_method; });
    return it == m_methods.end() ? nullptr : &*it;
}

void MethodSection::setMethods(const std::vector<MethodInfo>& methods, const std::function<QString(const MethodInfo&)>& whyNot)
{
    m_methods = methods;
    m_reasons.clear();
    const QSignalBlocker blocker(m_box);
    m_box->clear();
    auto* model = qobject_cast<QStandardItemModel*>(m_box->model());
    for (const MethodInfo& method : m_methods) {
        const QString reason = whyNot ? whyNot(method) : QString();
        m_reasons.push_back(reason);
        const QString title = QString::fromStdString(method.title);
        // The reason stands in the list, where the keyboard reaches it.
        m_box->addItem(reason.isEmpty() ? title : tr("%1 (%2)").arg(title, reason), QString::fromStdString(method.id));
        m_box->setItemData(m_box->count() - 1, methodToolTip(title, reason.isEmpty() ? method.help : reason.toStdString(), method.source),
                           Qt::ToolTipRole);
        if (model) model->item(m_box->count() - 1)->setEnabled(reason.isEmpty());
    }
    m_box->fitList();
    rebuild();
}

void MethodSection::setChoice(const MethodChoice& choice)
{
    m_method = choice.method;
    m_params = choice.params;
    rebuild();
}

MethodChoice MethodSection::choice() const
{
    MethodChoice choice{m_method, m_params};
    if (const MethodInfo* method = info())
        for (const ParamSpec& spec : method->params)
            if (const auto it = choice.params.find(spec.key); it != choice.params.end() && it->second == spec.defaultValue)
                choice.params.erase(it);
    return choice;
}

void MethodSection::setOn(bool on)
{
    if (m_switch) m_switch->setChecked(on);
    refresh();
}

bool MethodSection::isOn() const { return m_switch == nullptr || m_switch->isChecked(); }

QString MethodSection::problem() const
{
    if (!isOn() || m_methods.empty()) return {};
    for (std::size_t i = 0; i < m_methods.size(); ++i)
        if (m_methods[i].id == m_method)
            return m_reasons[i].isEmpty() ? QString()
                                          : tr("%1 cannot run: %2.").arg(QString::fromStdString(m_methods[i].title), m_reasons[i]);
    return tr("This engine has no method \"%1\".").arg(QString::fromStdString(m_method));
}

void MethodSection::rebuild()
{
    {
        const QSignalBlocker blocker(m_box);
        m_box->setCurrentIndex(m_box->findData(QString::fromStdString(m_method)));
    }
    m_fields->clear();
    const MethodInfo* method = info();
    m_box->setToolTip(method ? methodToolTip(QString::fromStdString(method->title), method->help, method->source) : QString());
    if (method) {
        // What the method does not know is not shown, and so not asked for either.
        std::erase_if(m_params, [&](const auto& item) {
            return std::none_of(method->params.begin(), method->params.end(),
                                [&](const ParamSpec& spec) { return spec.key == item.first; });
        });
        // The keyboard goes from the method to its parameters, also to those that came later.
        QWidget* before = m_box;
        for (const ParamSpec& spec : method->params) {
            QWidget* made = fieldFor(spec);
            m_fields->addRow(labelOf(spec), made, QString::fromStdString(spec.unit), tr("%1, %2").arg(m_title, labelOf(spec)),
                             methodToolTip(labelOf(spec), spec.help));
            setTabOrder(before, made);
            before = made;
        }
    }
    refresh();
}

QWidget* MethodSection::fieldFor(const ParamSpec& spec)
{
    const auto given = m_params.find(spec.key);
    const Json value = given != m_params.end() ? given->second : spec.defaultValue;
    const auto set = [this, key = spec.key](Json now) {
        m_params[key] = std::move(now);
        emit changed();
    };
    switch (spec.type) {
        case ParamType::Integer: {
            auto* box = new QSpinBox(m_fields);
            box->setRange(static_cast<int>(std::clamp(spec.low, -2e9, 2e9)), static_cast<int>(std::clamp(spec.high, -2e9, 2e9)));
            box->setGroupSeparatorShown(true);
            box->setKeyboardTracking(false);
            box->setAlignment(Qt::AlignRight);
            if (value.is_number()) box->setValue(static_cast<int>(value.get<double>()));
            box->setFixedWidth(pixelsOf(kFieldWidth));
            guardWheel(box);
            connect(box, &QSpinBox::valueChanged, this, [set](int now) { set(now); });
            return box;
        }
        case ParamType::Number: {
            auto* box = new QDoubleSpinBox(m_fields);
            box->setDecimals(decimalsOf(spec));
            box->setRange(spec.low, spec.high);
            box->setSingleStep(spec.high <= 1 ? 0.05 : 1);
            box->setGroupSeparatorShown(true);
            box->setKeyboardTracking(false);
            box->setAlignment(Qt::AlignRight);
            if (value.is_number()) box->setValue(value.get<double>());
            box->setFixedWidth(pixelsOf(kFieldWidth));
            guardWheel(box);
            connect(box, &QDoubleSpinBox::valueChanged, this, [set](double now) { set(now); });
            return box;
        }
        case ParamType::Choice: {
            auto* box = new Chooser(m_fields);
            for (const std::string& choice : spec.choices)
                box->addItem(QString::fromStdString(choice));
            if (value.is_string()) box->setCurrentText(QString::fromStdString(value.get<std::string>()));
            connect(box, &QComboBox::activated, this, [set, box] { set(box->currentText().toStdString()); });
            return box;
        }
        case ParamType::Switch: {
            auto* toggle = new Switch({}, m_fields);
            toggle->setChecked(value == Json(true));
            connect(toggle, &QAbstractButton::clicked, this, [set](bool on) { set(on); });
            return toggle;
        }
    }
    return new QLabel(m_fields);
}

void MethodSection::refresh()
{
    const bool on = isOn();
    m_head->setVisible(on && m_hasMethod);
    m_fields->setVisible(on && m_fields->rowCount() > 0);
    m_extra->setVisible(on && m_extra->rowCount() > 0);
    const QString why = problem();
    m_warning->setText(why);
    m_warning->setFont(fontFor(FontRole::Small));
    m_warning->setVisible(!why.isEmpty());
}

int MethodSection::labelWidth() const
{
    const QFontMetrics metrics(font());
    int width = 0;
    for (const MethodInfo& method : m_methods)
        for (const ParamSpec& spec : method.params)
            width = std::max(width, metrics.horizontalAdvance(labelOf(spec)));
    return std::min(width, pixelsOf(kMostLabelWidth));
}

void MethodSection::setLabelWidths(int choosers, int parameters)
{
    m_head->setLabelWidth(choosers);
    m_fields->setLabelWidth(parameters);
    // Rows that follow parameters continue their column.
    m_extra->setLabelWidth(m_hasMethod && m_labelledAsParameters ? parameters : choosers);
}

}  // namespace espalier
